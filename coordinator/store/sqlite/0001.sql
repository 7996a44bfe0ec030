-- Records are JSON documents beside the columns that are looked up or counted on.
CREATE TABLE member (
	id     TEXT PRIMARY KEY,
	key_id BLOB NOT NULL UNIQUE,
	doc    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE cell (
	id  TEXT PRIMARY KEY,
	doc TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
	id      TEXT PRIMARY KEY,
	uses    INTEGER NOT NULL,
	used    INTEGER NOT NULL,
	expires INTEGER NOT NULL, -- Unix nanoseconds, as every time here
	doc     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE operator (
	name       TEXT PRIMARY KEY,
	token_hash BLOB NOT NULL UNIQUE,
	doc        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Signed rows and windows as they came; thinned out now and then.
CREATE TABLE message (
	seq      INTEGER PRIMARY KEY,
	id       BLOB NOT NULL UNIQUE, -- SHA-256 of bytes
	received INTEGER NOT NULL,
	via      TEXT NOT NULL,
	bytes    BLOB NOT NULL
) STRICT;

CREATE TABLE release (
	ref      TEXT PRIMARY KEY, -- model@version
	admitted INTEGER NOT NULL,
	revoked  INTEGER NOT NULL DEFAULT 0,
	doc      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rollout (
	id      TEXT PRIMARY KEY,
	started INTEGER NOT NULL,
	ended   INTEGER NOT NULL, -- 0 while it lives
	doc     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX rollout_live ON rollout (ended, started);

CREATE TABLE command (
	rollout TEXT NOT NULL,
	seq     INTEGER NOT NULL, -- from 1, without gaps
	doc     TEXT NOT NULL,
	PRIMARY KEY (rollout, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE standing (
	rollout TEXT NOT NULL,
	member  TEXT NOT NULL,
	doc     TEXT NOT NULL,
	PRIMARY KEY (rollout, member)
) STRICT, WITHOUT ROWID;

CREATE TABLE sample (
	rollout TEXT NOT NULL,
	at      INTEGER NOT NULL,
	doc     TEXT NOT NULL,
	PRIMARY KEY (rollout, at)
) STRICT, WITHOUT ROWID;

CREATE TABLE directive (
	grp       TEXT NOT NULL,
	sequence  INTEGER NOT NULL,
	issued    INTEGER NOT NULL,
	published INTEGER NOT NULL, -- 0 until its pack is in the bucket
	body      BLOB NOT NULL,    -- the bytes that are signed
	PRIMARY KEY (grp, sequence)
) STRICT, WITHOUT ROWID;

-- What was signed and is being written to the bucket; at most one row.
CREATE TABLE publication (
	id     INTEGER PRIMARY KEY CHECK (id = 1),
	signed BLOB NOT NULL
) STRICT;

CREATE TABLE audit (
	idx     INTEGER PRIMARY KEY,
	at      INTEGER NOT NULL,
	actor   TEXT NOT NULL,
	action  TEXT NOT NULL,
	subject TEXT NOT NULL,
	reason  TEXT NOT NULL,
	detail  BLOB,
	prev    BLOB NOT NULL,
	hash    BLOB NOT NULL
) STRICT;
