-- What clients keep for a user, or for everybody (an empty owner), as they sent it.
CREATE TABLE settings (
    owner    TEXT COLLATE "C" PRIMARY KEY,
    user_id  TEXT COLLATE "C" REFERENCES users (id) ON DELETE CASCADE,
    document TEXT NOT NULL,
    etag     TEXT COLLATE "C" NOT NULL
);

CREATE INDEX settings_by_user ON settings (user_id) WHERE user_id IS NOT NULL;

-- A user's personal access tokens are told apart by their names.
CREATE UNIQUE INDEX user_tokens_by_name ON user_tokens (user_id, name) WHERE name IS NOT NULL;
