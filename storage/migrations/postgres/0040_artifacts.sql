-- Artifacts and the releases they make up. Text is searched in its folded form (lower case), so that both databases find
-- the same. `document` is what the file says about itself, in JSON.
CREATE TABLE releases (
    name        TEXT COLLATE "C" PRIMARY KEY,
    name_folded TEXT COLLATE "C" NOT NULL,
    modified    BIGINT NOT NULL,
    notes       TEXT NOT NULL DEFAULT ''
);

CREATE TABLE release_tags (
    release TEXT COLLATE "C" NOT NULL REFERENCES releases (name) ON DELETE CASCADE,
    place   BIGINT NOT NULL,
    tag     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (release, tag)
);

CREATE INDEX release_tags_by_tag ON release_tags (tag);

CREATE TABLE artifacts (
    id                 UUID PRIMARY KEY,
    name               TEXT COLLATE "C" NOT NULL REFERENCES releases (name),
    name_folded        TEXT COLLATE "C" NOT NULL,
    description        TEXT COLLATE "C" NOT NULL,
    description_folded TEXT COLLATE "C" NOT NULL,
    size               BIGINT NOT NULL,
    modified           BIGINT NOT NULL,
    object             TEXT NOT NULL,
    document           TEXT NOT NULL
);

CREATE INDEX artifacts_by_name ON artifacts (name, id);

CREATE TABLE artifact_device_types (
    artifact    UUID NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    device_type TEXT COLLATE "C" NOT NULL,
    folded      TEXT COLLATE "C" NOT NULL
);

-- A device type may be too long for an index.
CREATE INDEX artifact_device_types_by_artifact ON artifact_device_types (artifact);

CREATE TABLE artifact_kinds (
    artifact UUID NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    kind     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (artifact, kind)
);

CREATE INDEX artifact_kinds_by_kind ON artifact_kinds (kind);

-- Everything a device may be for an artifact to fit, one row for each combination, as the SHA-256 of its JSON text: of two
-- artifacts with one name, only one may fit a device.
CREATE TABLE artifact_combinations (
    name        TEXT COLLATE "C" NOT NULL,
    combination BYTEA NOT NULL,
    artifact    UUID NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    PRIMARY KEY (name, combination)
);

CREATE INDEX artifact_combinations_by_artifact ON artifact_combinations (artifact);

-- Which deployments may hand out which artifacts. A row stays when its deployment is over, for as long as that is known.
CREATE TABLE deployment_artifacts (
    deployment UUID NOT NULL,
    artifact   UUID NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    is_active  BOOLEAN NOT NULL,
    PRIMARY KEY (deployment, artifact)
);

CREATE INDEX deployment_artifacts_by_artifact ON deployment_artifacts (artifact);
CREATE INDEX deployment_artifacts_by_name ON deployment_artifacts (name);
