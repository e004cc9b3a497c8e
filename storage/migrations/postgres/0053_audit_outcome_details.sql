-- What a change was in particular, where that is only known once its request was read.
ALTER TABLE audit_outcomes ADD COLUMN details TEXT;
