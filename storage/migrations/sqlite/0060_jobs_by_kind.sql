-- Each kind of work is taken by itself: a thousand that are due of one kind must not be read to find one of another. Whatever
-- asked for all that is open finds it here too.
CREATE INDEX jobs_due_by_kind ON jobs (kind, due_at, id) WHERE due_at IS NOT NULL;
DROP INDEX jobs_due;
