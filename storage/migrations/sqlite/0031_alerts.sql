-- What devices' monitoring reports. One row for each device that ever sent an alert: its lock, the number of its latest
-- alert, how many open subjects the inventory shows (-1: nothing is shown yet), and the e-mails of the hour (counted from
-- the epoch) in which the last ones were sent.
CREATE TABLE alert_devices (
    device    BLOB NOT NULL PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    newest    INTEGER NOT NULL DEFAULT 0,
    open      INTEGER NOT NULL DEFAULT -1,
    mail_hour INTEGER NOT NULL DEFAULT 0,
    mails     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Every alert. `number` is the order of arrival, `at` the device's own time; `details` is JSON, kept as text.
CREATE TABLE alerts (
    id           BLOB NOT NULL PRIMARY KEY,
    device       BLOB NOT NULL REFERENCES alert_devices (device) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    name         TEXT NOT NULL,
    level        TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_name TEXT NOT NULL,
    status       TEXT NOT NULL,
    details      TEXT,
    at           INTEGER NOT NULL,
    received     INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX alerts_by_number ON alerts (device, number);
-- The order in which alerts are listed, and how one that is sent twice is found.
CREATE INDEX alerts_by_time ON alerts (device, at, number);
-- What retention removes.
CREATE INDEX alerts_by_arrival ON alerts (received);

-- What the alerts of each subject have come to. `at` orders them: the device's time, or the hub's if that cannot be right.
CREATE TABLE alert_subjects (
    device       BLOB NOT NULL REFERENCES alert_devices (device) ON DELETE CASCADE,
    subject_type TEXT NOT NULL,
    subject_name TEXT NOT NULL,
    latest       BLOB NOT NULL,
    level        TEXT NOT NULL,
    at           INTEGER NOT NULL,
    is_open      INTEGER NOT NULL,
    PRIMARY KEY (device, subject_type, subject_name)
) STRICT;

CREATE INDEX alert_subjects_open ON alert_subjects (latest) WHERE is_open;
CREATE INDEX alert_subjects_by_age ON alert_subjects (device, at, subject_type, subject_name) WHERE NOT is_open;

-- The checks each device says it makes: a JSON array, kept as text and as it came.
CREATE TABLE alert_checks (
    device     BLOB NOT NULL PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    checks     TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
