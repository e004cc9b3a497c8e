-- Devices, the keys they ask to join with, and the tokens they hold.
--
-- `status` of a device is derived from its sets by the only code that writes either; it is kept for sorting and filtering.
CREATE TABLE devices (
    id              UUID PRIMARY KEY,
    identity        TEXT NOT NULL,
    identity_hash   BYTEA NOT NULL UNIQUE,
    status          TEXT COLLATE "C" NOT NULL,
    decommissioning BOOLEAN NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    checked_in_at   BIGINT,
    revision        BIGINT NOT NULL
-- Room on each page, so that a check-in rewrites a row next to its old version without touching an index.
) WITH (fillfactor = 85);

-- The order in which devices are listed.
CREATE INDEX devices_by_status ON devices (status, id);
CREATE INDEX devices_leaving ON devices (id) WHERE decommissioning;

CREATE TABLE auth_sets (
    id         UUID PRIMARY KEY,
    device     UUID NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    pubkey     TEXT NOT NULL,
    status     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    -- Its tokens issued before this were revoked: the row of a later token must not bring them back.
    tokens_from BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX auth_sets_by_device ON auth_sets (device);
-- At most one accepted set per device at every instant.
CREATE UNIQUE INDEX auth_sets_accepted ON auth_sets (device) WHERE status = 'accepted';

-- A token is valid only while its row exists.
CREATE TABLE device_tokens (
    auth_set   UUID PRIMARY KEY REFERENCES auth_sets (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);

CREATE INDEX device_tokens_by_expiry ON device_tokens (expires_at);

-- One row: devices by status, counted by the transactions that change them, and how many may be accepted.
CREATE TABLE fleet (
    only_row      BIGINT PRIMARY KEY CHECK (only_row = 1),
    accepted      BIGINT NOT NULL DEFAULT 0,
    preauthorized BIGINT NOT NULL DEFAULT 0,
    pending       BIGINT NOT NULL DEFAULT 0,
    rejected      BIGINT NOT NULL DEFAULT 0,
    noauth        BIGINT NOT NULL DEFAULT 0,
    device_limit  BIGINT
);

INSERT INTO fleet (only_row) VALUES (1);
