-- What is known about each device, as one document: {scope: {name: {"value": …, "description": …, "timestamp": …}}}.
CREATE TABLE inventory (
    device      UUID PRIMARY KEY,
    document    JSONB NOT NULL,
    -- When the device last reported; NULL if it never has.
    reported_at BIGINT,
    revision    BIGINT NOT NULL DEFAULT 0,
    tags_etag   TEXT
);

-- Equality on any attribute: document @> '{"inventory": {"mac": {"value": "…"}}}'.
CREATE INDEX inventory_by_attribute ON inventory USING gin (document jsonb_path_ops);
