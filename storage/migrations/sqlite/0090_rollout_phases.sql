-- Deployments that begin on some devices first. `phase` is how many phases have opened (0: none has, or there are none),
-- `quota` how many devices may have been told by now (none: any number), `openings` how often it was opened to more devices,
-- by which those who remember devices see that there are more. A paused one tells no device anything new; `paused_by` says
-- why. `safety` holds, as JSON, what pauses it by itself: alerts until `watched` have been looked at, and what happened before
-- `resumed` has been seen by an operator.
ALTER TABLE deployments ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN safety TEXT;
ALTER TABLE deployments ADD COLUMN phase INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN quota INTEGER;
ALTER TABLE deployments ADD COLUMN openings INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN paused INTEGER;
ALTER TABLE deployments ADD COLUMN paused_by TEXT;
ALTER TABLE deployments ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN watched INTEGER NOT NULL DEFAULT 0;

-- One row for each phase, numbered from 1. `devices` is how many are in it (none: all the rest of a number nobody knows),
-- `percent` what was asked for, if that was asked for; it opens at `starts`, or else once the devices of the phase before
-- are over with it. `forgiven` are failures that an operator has seen and gone on after.
CREATE TABLE deployment_phases (
    deployment BLOB NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    id         BLOB NOT NULL,
    percent    INTEGER,
    devices    INTEGER,
    starts     INTEGER,
    opened     INTEGER,
    forgiven   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (deployment, number)
) STRICT;

-- The phase in which a device was told (0: it was not, or there are none), how often it has failed and was to try again, and
-- whether it has raised an alert since.
ALTER TABLE device_deployments ADD COLUMN phase INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device_deployments ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device_deployments ADD COLUMN alerted INTEGER NOT NULL DEFAULT 0;

-- How many current rows of a phase have each status; changed with them.
CREATE TABLE deployment_phase_counts (
    deployment BLOB NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    phase      INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    devices    INTEGER NOT NULL,
    PRIMARY KEY (deployment, phase, status)
) STRICT;
