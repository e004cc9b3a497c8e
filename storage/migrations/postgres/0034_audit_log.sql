-- Who changed what, when, from where: one row before the change, one row after it with what came of it. Nothing is ever
-- changed here; retention removes what is old. `key` makes an entry that is appended twice appear once.
CREATE TABLE audit_log (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key         TEXT COLLATE "C" UNIQUE,
    at          BIGINT NOT NULL,
    actor_kind  TEXT COLLATE "C" NOT NULL,
    actor       TEXT COLLATE "C",
    actor_email TEXT,
    action      TEXT COLLATE "C" NOT NULL,
    path        TEXT,
    object      TEXT COLLATE "C",
    address     TEXT,
    request     TEXT,
    details     TEXT
);

CREATE TABLE audit_outcomes (
    entry  BIGINT PRIMARY KEY REFERENCES audit_log (id) ON DELETE CASCADE,
    at     BIGINT NOT NULL,
    status BIGINT NOT NULL
);

CREATE INDEX audit_log_by_time ON audit_log (at);
CREATE INDEX audit_log_by_actor ON audit_log (actor, id);
CREATE INDEX audit_log_by_object ON audit_log (object, id);

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only appended to';
END
$$;

CREATE TRIGGER audit_log_stays BEFORE UPDATE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

CREATE TRIGGER audit_outcomes_stay BEFORE UPDATE OR TRUNCATE ON audit_outcomes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
