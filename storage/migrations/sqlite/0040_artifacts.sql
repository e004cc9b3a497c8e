-- Artifacts and the releases they make up. Text is searched in its folded form (lower case), so that both databases find
-- the same. `document` is what the file says about itself, in JSON.
CREATE TABLE releases (
    name        TEXT NOT NULL PRIMARY KEY,
    name_folded TEXT NOT NULL,
    modified    INTEGER NOT NULL,
    notes       TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE release_tags (
    release TEXT NOT NULL REFERENCES releases (name) ON DELETE CASCADE,
    place   INTEGER NOT NULL,
    tag     TEXT NOT NULL,
    PRIMARY KEY (release, tag)
) STRICT;

CREATE INDEX release_tags_by_tag ON release_tags (tag);

CREATE TABLE artifacts (
    id                 BLOB NOT NULL PRIMARY KEY,
    name               TEXT NOT NULL REFERENCES releases (name),
    name_folded        TEXT NOT NULL,
    description        TEXT NOT NULL,
    description_folded TEXT NOT NULL,
    size               INTEGER NOT NULL,
    modified           INTEGER NOT NULL,
    object             TEXT NOT NULL,
    document           TEXT NOT NULL
) STRICT;

CREATE INDEX artifacts_by_name ON artifacts (name, id);

CREATE TABLE artifact_device_types (
    artifact    BLOB NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    device_type TEXT NOT NULL,
    folded      TEXT NOT NULL
) STRICT;

-- A device type may be too long for an index.
CREATE INDEX artifact_device_types_by_artifact ON artifact_device_types (artifact);

CREATE TABLE artifact_kinds (
    artifact BLOB NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    kind     TEXT NOT NULL,
    PRIMARY KEY (artifact, kind)
) STRICT;

CREATE INDEX artifact_kinds_by_kind ON artifact_kinds (kind);

-- Everything a device may be for an artifact to fit, one row for each combination, as the SHA-256 of its JSON text: of two
-- artifacts with one name, only one may fit a device.
CREATE TABLE artifact_combinations (
    name        TEXT NOT NULL,
    combination BLOB NOT NULL,
    artifact    BLOB NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    PRIMARY KEY (name, combination)
) STRICT;

CREATE INDEX artifact_combinations_by_artifact ON artifact_combinations (artifact);

-- Which deployments may hand out which artifacts. A row stays when its deployment is over, for as long as that is known.
CREATE TABLE deployment_artifacts (
    deployment BLOB NOT NULL,
    artifact   BLOB NOT NULL,
    name       TEXT NOT NULL,
    is_active  INTEGER NOT NULL,
    PRIMARY KEY (deployment, artifact)
) STRICT;

CREATE INDEX deployment_artifacts_by_artifact ON deployment_artifacts (artifact);
CREATE INDEX deployment_artifacts_by_name ON deployment_artifacts (name);
