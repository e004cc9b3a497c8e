-- Users and the tokens that stand for them. A token without a name is a login session, one with a name a personal
-- access token.
CREATE TABLE users (
    id            TEXT NOT NULL PRIMARY KEY,
    email         TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    logged_in_at  INTEGER
) STRICT;

CREATE TABLE user_tokens (
    id           BLOB NOT NULL PRIMARY KEY,
    user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    name         TEXT,
    last_used_at INTEGER
) STRICT;

CREATE INDEX user_tokens_by_user ON user_tokens (user_id, created_at);
CREATE INDEX user_tokens_by_expiry ON user_tokens (expires_at) WHERE expires_at IS NOT NULL;
