-- What devices' monitoring reports. One row for each device that ever sent an alert: its lock, the number of its latest
-- alert, how many open subjects the inventory shows (-1: nothing is shown yet), and the e-mails of the hour (counted from
-- the epoch) in which the last ones were sent.
CREATE TABLE alert_devices (
    device    UUID PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    newest    BIGINT NOT NULL DEFAULT 0,
    open      BIGINT NOT NULL DEFAULT -1,
    mail_hour BIGINT NOT NULL DEFAULT 0,
    mails     BIGINT NOT NULL DEFAULT 0
);

-- Every alert. `number` is the order of arrival, `at` the device's own time; `details` is JSON, kept as text.
CREATE TABLE alerts (
    id           UUID PRIMARY KEY,
    device       UUID NOT NULL REFERENCES alert_devices (device) ON DELETE CASCADE,
    number       BIGINT NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    level        TEXT COLLATE "C" NOT NULL,
    subject_type TEXT COLLATE "C" NOT NULL,
    subject_name TEXT COLLATE "C" NOT NULL,
    status       TEXT COLLATE "C" NOT NULL,
    details      TEXT,
    at           BIGINT NOT NULL,
    received     BIGINT NOT NULL
);

CREATE UNIQUE INDEX alerts_by_number ON alerts (device, number);
-- The order in which alerts are listed, and how one that is sent twice is found.
CREATE INDEX alerts_by_time ON alerts (device, at, number);
-- What retention removes.
CREATE INDEX alerts_by_arrival ON alerts (received);

-- What the alerts of each subject have come to. `at` orders them: the device's time, or the hub's if that cannot be right.
CREATE TABLE alert_subjects (
    device       UUID NOT NULL REFERENCES alert_devices (device) ON DELETE CASCADE,
    subject_type TEXT COLLATE "C" NOT NULL,
    subject_name TEXT COLLATE "C" NOT NULL,
    latest       UUID NOT NULL,
    level        TEXT COLLATE "C" NOT NULL,
    at           BIGINT NOT NULL,
    is_open      BOOLEAN NOT NULL,
    PRIMARY KEY (device, subject_type, subject_name)
);

CREATE INDEX alert_subjects_open ON alert_subjects (latest) WHERE is_open;
CREATE INDEX alert_subjects_by_age ON alert_subjects (device, at, subject_type, subject_name) WHERE NOT is_open;

-- The checks each device says it makes: a JSON array, kept as text and as it came.
CREATE TABLE alert_checks (
    device     UUID PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    checks     TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
