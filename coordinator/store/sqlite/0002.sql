-- Members that wait for an operator's approval.
CREATE TABLE pending (
	id     TEXT PRIMARY KEY,
	key_id BLOB NOT NULL,
	state  TEXT NOT NULL, -- waiting, approved or denied
	doc    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
