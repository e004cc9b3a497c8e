-- Deployments: orders to install a release, or a configuration, on devices. `created` is also their order, so no two have the
-- same; one without `finished` goes on. Text is searched in its folded form (lower case). `targets` and `target_groups` say in
-- JSON how the devices were chosen.
CREATE TABLE deployments (
    id                   UUID PRIMARY KEY,
    kind                 TEXT COLLATE "C" NOT NULL,
    name                 TEXT COLLATE "C" NOT NULL,
    name_folded          TEXT COLLATE "C" NOT NULL,
    artifact_name        TEXT COLLATE "C" NOT NULL,
    artifact_name_folded TEXT COLLATE "C" NOT NULL,
    created              BIGINT NOT NULL,
    finished             BIGINT,
    state                TEXT COLLATE "C" NOT NULL,
    forced               BOOLEAN NOT NULL,
    targets              TEXT NOT NULL,
    target_groups        TEXT NOT NULL,
    is_dynamic           BOOLEAN NOT NULL,
    max_devices          BIGINT NOT NULL,
    device_count         BIGINT NOT NULL DEFAULT 0,
    total_size           BIGINT NOT NULL DEFAULT 0,
    fingerprint          BYTEA NOT NULL,
    configuration        TEXT
);

CREATE UNIQUE INDEX deployments_in_order ON deployments (created);
CREATE UNIQUE INDEX deployments_going_on_once ON deployments (fingerprint) WHERE finished IS NULL;
CREATE INDEX deployments_by_name ON deployments (name);

-- A device's part in a deployment, from the beginning on for devices that were named then, and for others once they are chosen.
-- `offered` is when it was first told of it. Who deletes the history of a device has `deleted` set; should the device be
-- offered the same again, that is another row, and the one before is not current any more. Statuses are the numbers of the
-- Mender API, by which lists are sorted; 0 is a device that was never told before it was over.
CREATE TABLE device_deployments (
    id         UUID PRIMARY KEY,
    deployment UUID NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    device     TEXT COLLATE "C" NOT NULL,
    status     BIGINT NOT NULL,
    is_current BOOLEAN NOT NULL,
    created    BIGINT NOT NULL,
    offered    BIGINT,
    started    BIGINT,
    finished   BIGINT,
    deleted    BIGINT,
    substate   TEXT NOT NULL DEFAULT '',
    request    BYTEA,
    provides   BYTEA,
    artifact   UUID,
    has_log    BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE UNIQUE INDEX device_deployments_current ON device_deployments (deployment, device) WHERE is_current;
CREATE INDEX device_deployments_by_status ON device_deployments (deployment, status, device);
CREATE INDEX device_deployments_by_device ON device_deployments (device, created);
CREATE INDEX device_deployments_active ON device_deployments (device)
    WHERE is_current AND status BETWEEN 768 AND 2304;

-- How many current rows of a deployment have each status; changed with them.
CREATE TABLE deployment_counts (
    deployment UUID NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    status     BIGINT NOT NULL,
    devices    BIGINT NOT NULL,
    PRIMARY KEY (deployment, status)
);

CREATE TABLE deployment_logs (
    device_deployment UUID PRIMARY KEY REFERENCES device_deployments (id) ON DELETE CASCADE,
    messages          TEXT NOT NULL
);

-- Artifacts that devices were given, as they were then: they are shown for longer than they can be removed.
CREATE TABLE deployed_artifacts (
    id          UUID PRIMARY KEY,
    name        TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    size        BIGINT NOT NULL,
    modified    BIGINT NOT NULL,
    object      TEXT NOT NULL,
    document    TEXT NOT NULL
);

-- The last thing that each device went through.
CREATE TABLE device_last_deployments (
    device            TEXT COLLATE "C" PRIMARY KEY,
    deployment        UUID NOT NULL,
    device_deployment UUID NOT NULL,
    status            BIGINT NOT NULL
);
