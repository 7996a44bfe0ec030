package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Members lists every member ever enrolled, by id.
func (s *Store) Members(ctx context.Context) ([]store.Member, error) {
	return all[store.Member](ctx, s.r, "list members", "SELECT doc FROM member ORDER BY id")
}

// Enrol adds a member and uses up one use of its token.
func (s *Store) Enrol(ctx context.Context, m store.Member, now time.Time, note audit.Note) error {
	const op = "enrol"
	id := string(m.Facts.ID)
	return s.write(ctx, op, id, []audit.Note{note}, func(tx *sql.Tx) error {
		var doc []byte
		err := tx.QueryRowContext(ctx, "SELECT doc FROM member WHERE id = ?", id).Scan(&doc)
		if err == nil {
			var had store.Member
			if err := json.Unmarshal(doc, &had); err != nil {
				return err
			}
			if !slices.Equal(had.PublicKey, m.PublicKey) || had.Revoked || had.Locked != "" {
				return fault.Newf(fault.Conflict, op, id, "the member id is taken").
					WithHint("give the member another id, or revoke the one that has it")
			}
			free, err := repeats(ctx, tx, had, m, now)
			if err != nil {
				return err
			}
			if !free {
				if err := spend(ctx, tx, m, now); err != nil {
					return err
				}
			}
			had.Token, had.Generation, had.Expires, had.Confirmed = m.Token, m.Generation, m.Expires, false
			had.Certificate, had.Previous, had.Issuer = m.Certificate, m.Previous, m.Issuer
			return putMember(ctx, tx, had)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := spend(ctx, tx, m, now); err != nil {
			return err
		}
		var taken string
		err = tx.QueryRowContext(ctx, "SELECT id FROM member WHERE key_id = ?", m.KeyID[:]).Scan(&taken)
		if err == nil {
			return fault.Newf(fault.Conflict, op, id, "its key is that of member %s", taken).
				WithHint("make a key of its own for each member: remove the state folder that was copied")
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return putMember(ctx, tx, m)
	})
}

// lostFor is how long after its enrolment a member may ask again by a token that is
// over: one that waited for approval joins however late.
const lostFor = 24 * time.Hour

// repeats reports whether a member asks again by its own token, whose answer may
// have been lost: that costs no use.
func repeats(ctx context.Context, tx *sql.Tx, had, m store.Member, now time.Time) (bool, error) {
	if had.Token != m.Token || had.Confirmed {
		return false, nil
	}
	if now.Before(had.Facts.Enrolled.Add(lostFor)) {
		return true, nil
	}
	var good bool
	err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM token WHERE id = ? AND expires > ?)", m.Token, now.UnixNano()).Scan(&good)
	return good, err
}

// spend takes one use of the token that a member joins by, unless it waited for
// approval, which took one when it began.
func spend(ctx context.Context, tx *sql.Tx, m store.Member, now time.Time) error {
	res, err := tx.ExecContext(ctx, "DELETE FROM pending WHERE id = ? AND key_id = ? AND state = ?", string(m.Facts.ID), m.KeyID[:], api.Approved)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return spendToken(ctx, tx, m.Token, string(m.Facts.ID), now)
}

func spendToken(ctx context.Context, tx *sql.Tx, token, member string, now time.Time) error {
	res, err := tx.ExecContext(ctx, "UPDATE token SET used = used + 1 WHERE id = ? AND used < uses AND expires > ?", token, now.UnixNano())
	return changed(res, err, fault.Newf(fault.Denied, "enrol", member, "the join token is spent, expired or unknown").
		WithHint("make a new one with `modelfleet token create`"))
}

// Pending lists the members that wait for approval, by id.
func (s *Store) Pending(ctx context.Context) ([]store.Pending, error) {
	return all[store.Pending](ctx, s.r, "list pending members", "SELECT doc FROM pending ORDER BY id")
}

// AddPending adds a member that waits and uses up one use of its token.
func (s *Store) AddPending(ctx context.Context, p store.Pending, now time.Time, note audit.Note) error {
	const op = "enrol"
	id := string(p.Member)
	return s.write(ctx, op, id, []audit.Note{note}, func(tx *sql.Tx) error {
		doc, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if err := spendToken(ctx, tx, p.Token, id, now); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "INSERT INTO pending (id, key_id, state, doc) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET key_id = excluded.key_id, state = excluded.state, doc = excluded.doc WHERE state = ?",
			id, p.KeyID[:], p.State, string(doc), api.Refused)
		return changed(res, err, fault.Newf(fault.Conflict, op, id, "another device waits for approval under this id").
			WithHint("give the member another id, or deny the one that waits: modelfleet members pending"))
	})
}

// SavePending replaces a member that waits; a denial gives the use of its token back.
func (s *Store) SavePending(ctx context.Context, p store.Pending, note audit.Note) error {
	return s.write(ctx, "save pending member", string(p.Member), []audit.Note{note}, func(tx *sql.Tx) error {
		doc, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if p.State == api.Refused {
			if _, err := tx.ExecContext(ctx, "UPDATE token SET used = used - 1 WHERE id = ? AND used > 0 AND EXISTS (SELECT 1 FROM pending WHERE id = ? AND key_id = ? AND state <> ?)",
				p.Token, string(p.Member), p.KeyID[:], api.Refused); err != nil {
				return err
			}
		}
		res, err := tx.ExecContext(ctx, "UPDATE pending SET state = ?, doc = ? WHERE id = ? AND key_id = ?", p.State, string(doc), string(p.Member), p.KeyID[:])
		return changed(res, err, fault.Newf(fault.NotFound, "save pending member", string(p.Member), "it does not wait any more"))
	})
}

// SaveMember replaces a known member.
func (s *Store) SaveMember(ctx context.Context, m store.Member, notes ...audit.Note) error {
	return s.write(ctx, "save member", string(m.Facts.ID), notes, func(tx *sql.Tx) error {
		doc, err := json.Marshal(m)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "UPDATE member SET key_id = ?, doc = ? WHERE id = ?", m.KeyID[:], string(doc), string(m.Facts.ID))
		return changed(res, err, fault.Newf(fault.NotFound, "save member", string(m.Facts.ID), "it is not enrolled"))
	})
}

func putMember(ctx context.Context, tx *sql.Tx, m store.Member) error {
	doc, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO member (id, key_id, doc) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET key_id = excluded.key_id, doc = excluded.doc",
		string(m.Facts.ID), m.KeyID[:], string(doc))
	return err
}

// Cells lists the gossip pools.
func (s *Store) Cells(ctx context.Context) ([]store.Cell, error) {
	return all[store.Cell](ctx, s.r, "list cells", "SELECT doc FROM cell ORDER BY id")
}

// AddCell adds a cell; one that is there stays as it is.
func (s *Store) AddCell(ctx context.Context, c store.Cell) error {
	return s.write(ctx, "add cell", c.ID, nil, func(tx *sql.Tx) error {
		doc, err := json.Marshal(c)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO cell (id, doc) VALUES (?, ?) ON CONFLICT DO NOTHING", c.ID, string(doc))
		return err
	})
}

// SaveCell replaces a known cell.
func (s *Store) SaveCell(ctx context.Context, c store.Cell, notes ...audit.Note) error {
	return s.write(ctx, "save cell", c.ID, notes, func(tx *sql.Tx) error {
		doc, err := json.Marshal(c)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE cell SET doc = ? WHERE id = ?", string(doc), c.ID)
		return err
	})
}

// AddToken adds a join token.
func (s *Store) AddToken(ctx context.Context, t store.Token, note audit.Note) error {
	return s.write(ctx, "create token", t.ID, []audit.Note{note}, func(tx *sql.Tx) error {
		t.Text = "" // the secret never comes here, but for this slip it would
		doc, err := json.Marshal(t)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO token (id, uses, used, expires, doc) VALUES (?, ?, 0, ?, ?)", t.ID, t.Uses, t.Expires.UnixNano(), string(doc))
		return err
	})
}

const tokenQuery = "SELECT json_set(doc, '$.used', used) FROM token "

// Token is one join token.
func (s *Store) Token(ctx context.Context, id string) (store.Token, error) {
	return one[store.Token](ctx, s.r, "find token", id, tokenQuery+"WHERE id = ?", id)
}

// Tokens lists the join tokens.
func (s *Store) Tokens(ctx context.Context) ([]store.Token, error) {
	return all[store.Token](ctx, s.r, "list tokens", tokenQuery+"ORDER BY id")
}

// DeleteToken makes a token worthless.
func (s *Store) DeleteToken(ctx context.Context, id string, note audit.Note) error {
	return s.write(ctx, "delete token", id, []audit.Note{note}, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM token WHERE id = ?", id)
		return changed(res, err, fault.Newf(fault.NotFound, "delete token", id, "there is none of that id"))
	})
}
