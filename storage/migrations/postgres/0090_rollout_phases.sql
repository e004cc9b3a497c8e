-- Deployments that begin on some devices first. `phase` is how many phases have opened (0: none has, or there are none),
-- `quota` how many devices may have been told by now (none: any number), `openings` how often it was opened to more devices,
-- by which those who remember devices see that there are more. A paused one tells no device anything new; `paused_by` says
-- why. `safety` holds, as JSON, what pauses it by itself: alerts until `watched` have been looked at, and what happened before
-- `resumed` has been seen by an operator.
ALTER TABLE deployments ADD COLUMN retries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN safety TEXT;
ALTER TABLE deployments ADD COLUMN phase BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN quota BIGINT;
ALTER TABLE deployments ADD COLUMN openings BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN paused BIGINT;
ALTER TABLE deployments ADD COLUMN paused_by TEXT;
ALTER TABLE deployments ADD COLUMN resumed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN watched BIGINT NOT NULL DEFAULT 0;

-- One row for each phase, numbered from 1. `devices` is how many are in it (none: all the rest of a number nobody knows),
-- `percent` what was asked for, if that was asked for; it opens at `starts`, or else once the devices of the phase before
-- are over with it. `forgiven` are failures that an operator has seen and gone on after.
CREATE TABLE deployment_phases (
    deployment UUID NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    number     BIGINT NOT NULL,
    id         UUID NOT NULL,
    percent    BIGINT,
    devices    BIGINT,
    starts     BIGINT,
    opened     BIGINT,
    forgiven   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (deployment, number)
);

-- The phase in which a device was told (0: it was not, or there are none), how often it has failed and was to try again, and
-- whether it has raised an alert since.
ALTER TABLE device_deployments ADD COLUMN phase BIGINT NOT NULL DEFAULT 0;
ALTER TABLE device_deployments ADD COLUMN attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE device_deployments ADD COLUMN alerted BOOLEAN NOT NULL DEFAULT FALSE;

-- How many current rows of a phase have each status; changed with them.
CREATE TABLE deployment_phase_counts (
    deployment UUID NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    phase      BIGINT NOT NULL,
    status     BIGINT NOT NULL,
    devices    BIGINT NOT NULL,
    PRIMARY KEY (deployment, phase, status)
);
