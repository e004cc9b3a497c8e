-- How often somebody went on with an upload that others had begun to work on: one that never comes to an end is given up.
ALTER TABLE uploads ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
