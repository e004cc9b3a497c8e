-- Private keys that every node signs and verifies with, one per purpose. The first node to start makes them.
CREATE TABLE signing_keys (
    purpose TEXT NOT NULL PRIMARY KEY,
    pem     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
