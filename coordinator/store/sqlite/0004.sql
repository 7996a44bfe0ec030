-- The audit log is a Merkle tree: leaves as they are hashed, and the hashes of
-- complete subtrees in the order of RFC 6962 logs. Details too long for a leaf
-- lie aside.
DROP TABLE audit;
CREATE TABLE audit (
    idx     INTEGER PRIMARY KEY, -- from 1
    leaf    BLOB NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT;
CREATE INDEX audit_subject ON audit (action, subject, idx);
CREATE TABLE audit_hash (
    idx  INTEGER PRIMARY KEY,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE audit_aside (
    digest BLOB PRIMARY KEY,
    body   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE audit_head ( -- checkpoints that went into packs
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL
) STRICT;
CREATE TABLE audit_split ( -- evidence of other histories
    id     INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    doc    BLOB NOT NULL
) STRICT;
