-- Deployments: orders to install a release, or a configuration, on devices. `created` is also their order, so no two have the
-- same; one without `finished` goes on. Text is searched in its folded form (lower case). `targets` and `target_groups` say in
-- JSON how the devices were chosen.
CREATE TABLE deployments (
    id                   BLOB NOT NULL PRIMARY KEY,
    kind                 TEXT NOT NULL,
    name                 TEXT NOT NULL,
    name_folded          TEXT NOT NULL,
    artifact_name        TEXT NOT NULL,
    artifact_name_folded TEXT NOT NULL,
    created              INTEGER NOT NULL,
    finished             INTEGER,
    state                TEXT NOT NULL,
    forced               INTEGER NOT NULL,
    targets              TEXT NOT NULL,
    target_groups        TEXT NOT NULL,
    is_dynamic           INTEGER NOT NULL,
    max_devices          INTEGER NOT NULL,
    device_count         INTEGER NOT NULL DEFAULT 0,
    total_size           INTEGER NOT NULL DEFAULT 0,
    fingerprint          BLOB NOT NULL,
    configuration        TEXT
) STRICT;

CREATE UNIQUE INDEX deployments_in_order ON deployments (created);
CREATE UNIQUE INDEX deployments_going_on_once ON deployments (fingerprint) WHERE finished IS NULL;
CREATE INDEX deployments_by_name ON deployments (name);

-- A device's part in a deployment, from the beginning on for devices that were named then, and for others once they are chosen.
-- `offered` is when it was first told of it. Who deletes the history of a device has `deleted` set; should the device be
-- offered the same again, that is another row, and the one before is not current any more. Statuses are the numbers of the
-- Mender API, by which lists are sorted; 0 is a device that was never told before it was over.
CREATE TABLE device_deployments (
    id         BLOB NOT NULL PRIMARY KEY,
    deployment BLOB NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    device     TEXT NOT NULL,
    status     INTEGER NOT NULL,
    is_current INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    offered    INTEGER,
    started    INTEGER,
    finished   INTEGER,
    deleted    INTEGER,
    substate   TEXT NOT NULL DEFAULT '',
    request    BLOB,
    provides   BLOB,
    artifact   BLOB,
    has_log    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX device_deployments_current ON device_deployments (deployment, device) WHERE is_current;
CREATE INDEX device_deployments_by_status ON device_deployments (deployment, status, device);
CREATE INDEX device_deployments_by_device ON device_deployments (device, created);
CREATE INDEX device_deployments_active ON device_deployments (device)
    WHERE is_current AND status BETWEEN 768 AND 2304;

-- How many current rows of a deployment have each status; changed with them.
CREATE TABLE deployment_counts (
    deployment BLOB NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    status     INTEGER NOT NULL,
    devices    INTEGER NOT NULL,
    PRIMARY KEY (deployment, status)
) STRICT;

CREATE TABLE deployment_logs (
    device_deployment BLOB NOT NULL PRIMARY KEY REFERENCES device_deployments (id) ON DELETE CASCADE,
    messages          TEXT NOT NULL
) STRICT;

-- Artifacts that devices were given, as they were then: they are shown for longer than they can be removed.
CREATE TABLE deployed_artifacts (
    id          BLOB NOT NULL PRIMARY KEY,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    size        INTEGER NOT NULL,
    modified    INTEGER NOT NULL,
    object      TEXT NOT NULL,
    document    TEXT NOT NULL
) STRICT;

-- The last thing that each device went through.
CREATE TABLE device_last_deployments (
    device            TEXT NOT NULL PRIMARY KEY,
    deployment        BLOB NOT NULL,
    device_deployment BLOB NOT NULL,
    status            INTEGER NOT NULL
) STRICT;
