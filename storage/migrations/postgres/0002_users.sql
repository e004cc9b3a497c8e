-- Users and the tokens that stand for them. A token without a name is a login session, one with a name a personal
-- access token.
CREATE TABLE users (
    id            TEXT COLLATE "C" PRIMARY KEY,
    email         TEXT COLLATE "C" NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    logged_in_at  BIGINT
);

CREATE TABLE user_tokens (
    id           UUID PRIMARY KEY,
    user_id      TEXT COLLATE "C" NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    name         TEXT COLLATE "C",
    last_used_at BIGINT
);

CREATE INDEX user_tokens_by_user ON user_tokens (user_id, created_at);
CREATE INDEX user_tokens_by_expiry ON user_tokens (expires_at) WHERE expires_at IS NOT NULL;
