-- Whether the device limit was set over the internal API: then settings without one do not lift it.
ALTER TABLE fleet ADD COLUMN limit_from_outside INTEGER NOT NULL DEFAULT 0;
