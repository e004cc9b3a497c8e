-- A digest stands for a name of a personal access token: a long name is larger than an entry of an index may be.
DROP INDEX user_tokens_by_name;
CREATE UNIQUE INDEX user_tokens_by_name ON user_tokens (user_id, md5(name)) WHERE name IS NOT NULL;
