-- What searches of the inventory stand on. Everything here is derived from the documents. Rows that are not `indexed` were
-- written before, or by a node of the version before; the next node that starts sees to them.
ALTER TABLE inventory
    ADD COLUMN status TEXT COLLATE "C",
    ADD COLUMN group_name TEXT COLLATE "C",
    ADD COLUMN tier TEXT COLLATE "C",
    ADD COLUMN created_at BIGINT,
    -- Follows the one in `devices` with some delay, so that a busy device does not rewrite its place in the indexes.
    ADD COLUMN checked_in_at BIGINT,
    -- Where the device says it is: degrees, and the same as a point on the unit sphere.
    ADD COLUMN latitude DOUBLE PRECISION,
    ADD COLUMN longitude DOUBLE PRECISION,
    ADD COLUMN place_x DOUBLE PRECISION,
    ADD COLUMN place_y DOUBLE PRECISION,
    ADD COLUMN place_z DOUBLE PRECISION,
    ADD COLUMN indexed BOOLEAN NOT NULL DEFAULT FALSE;

-- Room on each page, so that a report rewrites a row next to its old version without touching an index.
ALTER TABLE inventory SET (fillfactor = 80);

DROP INDEX inventory_by_attribute;
CREATE INDEX inventory_by_status ON inventory (status, device);
CREATE INDEX inventory_by_check_in ON inventory (status, checked_in_at NULLS FIRST, device);
CREATE INDEX inventory_by_group ON inventory (group_name, device);
CREATE INDEX inventory_not_indexed ON inventory (device) WHERE NOT indexed;

-- One row for each value of each attribute of each device. A term is the attribute's fingerprint and the value, in bytes
-- that sort as values compare; `role` says what the row is for (0 a value, 1 an element of an array, 2 and 3 where an
-- array sorts, 4 an array as a whole).
CREATE TABLE inventory_terms (
    term   BYTEA NOT NULL,
    device UUID NOT NULL,
    role   SMALLINT NOT NULL,
    PRIMARY KEY (term, device) INCLUDE (role)
);

-- What free text finds: the words of a device, and by what people know it.
CREATE TABLE inventory_text (
    device UUID PRIMARY KEY,
    words  TSVECTOR NOT NULL,
    names  TEXT COLLATE "C" NOT NULL
);

CREATE INDEX inventory_text_words ON inventory_text USING gin (words);

-- Without trigrams (a server that lacks the extension, or does not let us have it) parts of names are found by reading
-- them all.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX inventory_text_names ON inventory_text USING gin (names gin_trgm_ops);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'no index for parts of names: %', SQLERRM;
END
$$;

-- Which attributes there are, and how many devices have each.
CREATE TABLE inventory_attributes (
    attribute BYTEA PRIMARY KEY,
    scope     TEXT COLLATE "C" NOT NULL,
    name      TEXT COLLATE "C" NOT NULL,
    devices   BIGINT NOT NULL
);

-- How many devices there are by status, group and tier; empty where a device has none.
CREATE TABLE inventory_counts (
    status     TEXT COLLATE "C" NOT NULL,
    group_name TEXT COLLATE "C" NOT NULL,
    tier       TEXT COLLATE "C" NOT NULL,
    devices    BIGINT NOT NULL,
    PRIMARY KEY (group_name, status, tier)
);
