-- What devices are told to be and what they say they are: two JSON objects of texts, kept as text. A device that nobody has
-- said anything about has no row. `deployment` is the last one that was asked for.
CREATE TABLE device_configs (
    device      UUID PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    configured  TEXT NOT NULL,
    reported    TEXT NOT NULL,
    deployment  UUID,
    updated_at  BIGINT NOT NULL,
    reported_at BIGINT
);
