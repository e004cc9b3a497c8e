-- What searches of the inventory stand on. Everything here is derived from the documents. Rows that are not `indexed` were
-- written before, or by a node of the version before; the next node that starts sees to them.
ALTER TABLE inventory ADD COLUMN status TEXT;
ALTER TABLE inventory ADD COLUMN group_name TEXT;
ALTER TABLE inventory ADD COLUMN tier TEXT;
ALTER TABLE inventory ADD COLUMN created_at INTEGER;
-- Follows the one in `devices` with some delay, so that a busy device does not rewrite its place in the indexes.
ALTER TABLE inventory ADD COLUMN checked_in_at INTEGER;
-- Where the device says it is: degrees, and the same as a point on the unit sphere.
ALTER TABLE inventory ADD COLUMN latitude REAL;
ALTER TABLE inventory ADD COLUMN longitude REAL;
ALTER TABLE inventory ADD COLUMN place_x REAL;
ALTER TABLE inventory ADD COLUMN place_y REAL;
ALTER TABLE inventory ADD COLUMN place_z REAL;
ALTER TABLE inventory ADD COLUMN indexed INTEGER NOT NULL DEFAULT FALSE;

CREATE INDEX inventory_by_status ON inventory (status, device);
CREATE INDEX inventory_by_check_in ON inventory (status, checked_in_at, device);
CREATE INDEX inventory_by_group ON inventory (group_name, device);
CREATE INDEX inventory_not_indexed ON inventory (device) WHERE NOT indexed;

-- One row for each value of each attribute of each device. A term is the attribute's fingerprint and the value, in bytes
-- that sort as values compare; `role` says what the row is for (0 a value, 1 an element of an array, 2 and 3 where an
-- array sorts, 4 an array as a whole).
CREATE TABLE inventory_terms (
    term   BLOB NOT NULL,
    device BLOB NOT NULL,
    role   INTEGER NOT NULL,
    PRIMARY KEY (term, device)
) STRICT, WITHOUT ROWID;

-- What free text finds: the words of a device, and by what people know it.
CREATE TABLE inventory_text (
    device BLOB NOT NULL PRIMARY KEY,
    words  TEXT NOT NULL,
    names  TEXT NOT NULL
) STRICT;

-- Which attributes there are, and how many devices have each.
CREATE TABLE inventory_attributes (
    attribute BLOB NOT NULL PRIMARY KEY,
    scope     TEXT NOT NULL,
    name      TEXT NOT NULL,
    devices   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many devices there are by status, group and tier; empty where a device has none.
CREATE TABLE inventory_counts (
    status     TEXT NOT NULL,
    group_name TEXT NOT NULL,
    tier       TEXT NOT NULL,
    devices    INTEGER NOT NULL,
    PRIMARY KEY (group_name, status, tier)
) STRICT, WITHOUT ROWID;
