-- Devices, the keys they ask to join with, and the tokens they hold.
--
-- `status` of a device is derived from its sets by the only code that writes either; it is kept for sorting and filtering.
CREATE TABLE devices (
    id              BLOB NOT NULL PRIMARY KEY,
    identity        TEXT NOT NULL,
    identity_hash   BLOB NOT NULL UNIQUE,
    status          TEXT NOT NULL,
    decommissioning INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    checked_in_at   INTEGER,
    revision        INTEGER NOT NULL
) STRICT;

-- The order in which devices are listed.
CREATE INDEX devices_by_status ON devices (status, id);
CREATE INDEX devices_leaving ON devices (id) WHERE decommissioning;

CREATE TABLE auth_sets (
    id         BLOB NOT NULL PRIMARY KEY,
    device     BLOB NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    pubkey     TEXT NOT NULL,
    status     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- Its tokens issued before this were revoked: the row of a later token must not bring them back.
    tokens_from INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX auth_sets_by_device ON auth_sets (device);
-- At most one accepted set per device at every instant.
CREATE UNIQUE INDEX auth_sets_accepted ON auth_sets (device) WHERE status = 'accepted';

-- A token is valid only while its row exists.
CREATE TABLE device_tokens (
    auth_set   BLOB NOT NULL PRIMARY KEY REFERENCES auth_sets (id) ON DELETE CASCADE,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX device_tokens_by_expiry ON device_tokens (expires_at);

-- One row: devices by status, counted by the transactions that change them, and how many may be accepted.
CREATE TABLE fleet (
    only_row      INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    accepted      INTEGER NOT NULL DEFAULT 0,
    preauthorized INTEGER NOT NULL DEFAULT 0,
    pending       INTEGER NOT NULL DEFAULT 0,
    rejected      INTEGER NOT NULL DEFAULT 0,
    noauth        INTEGER NOT NULL DEFAULT 0,
    device_limit  INTEGER
) STRICT;

INSERT INTO fleet (only_row) VALUES (1);
