-- Who is signed in: hash is the SHA-256 of what their browser or command shows.
CREATE TABLE session (
	hash BLOB PRIMARY KEY,
	doc  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
