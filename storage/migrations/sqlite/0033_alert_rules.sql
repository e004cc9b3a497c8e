-- Rules by which the hub raises alerts itself. `condition` is JSON, kept as text. `due_at` is when a rule is looked at next;
-- NULL for one that is switched off and has closed what it had opened. `evaluated` is up to when reports were looked at.
CREATE TABLE alert_rules (
    id         BLOB NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL,
    level      TEXT NOT NULL,
    condition  TEXT NOT NULL,
    due_at     INTEGER,
    evaluated  INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX alert_rules_due ON alert_rules (due_at) WHERE due_at IS NOT NULL;
-- Of which devices a rule's subject is open.
CREATE INDEX alert_subjects_by_name ON alert_subjects (subject_type, subject_name, device) WHERE is_open;
-- Which devices have reported since a rule looked.
CREATE INDEX inventory_by_report ON inventory (reported_at) WHERE reported_at IS NOT NULL;
