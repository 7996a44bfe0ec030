package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// AddOperator adds an operator.
func (s *Store) AddOperator(ctx context.Context, o store.Operator, note audit.Note) error {
	return s.write(ctx, "create operator", o.Name, []audit.Note{note}, func(tx *sql.Tx) error {
		doc, err := json.Marshal(o)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "INSERT INTO operator (name, token_hash, doc) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", o.Name, o.TokenHash[:], string(doc))
		return changed(res, err, fault.Newf(fault.Conflict, "create operator", o.Name, "the name is taken"))
	})
}

// OperatorByToken finds the operator whose token has the hash.
func (s *Store) OperatorByToken(ctx context.Context, hash fleet.Digest) (store.Operator, error) {
	return one[store.Operator](ctx, s.r, "find operator", "", "SELECT doc FROM operator WHERE token_hash = ?", hash[:])
}

// Operators lists the operators.
func (s *Store) Operators(ctx context.Context) ([]store.Operator, error) {
	return all[store.Operator](ctx, s.r, "list operators", "SELECT doc FROM operator ORDER BY name")
}

// SaveOperator replaces a known operator.
func (s *Store) SaveOperator(ctx context.Context, o store.Operator, note audit.Note) error {
	return s.write(ctx, "save operator", o.Name, []audit.Note{note}, func(tx *sql.Tx) error {
		doc, err := json.Marshal(o)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "UPDATE operator SET token_hash = ?, doc = ? WHERE name = ?", o.TokenHash[:], string(doc), o.Name)
		return changed(res, err, noOperator("save operator", o.Name))
	})
}

// TouchOperator notes when an operator's token was last used.
func (s *Store) TouchOperator(ctx context.Context, name string, at time.Time) error {
	return s.write(ctx, "note use of operator", name, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE operator SET doc = json_set(doc, '$.Used', ?) WHERE name = ?", at.UTC().Format(time.RFC3339Nano), name)
		return err
	})
}

// DeleteOperator takes an operator's access away.
func (s *Store) DeleteOperator(ctx context.Context, name string, note audit.Note) error {
	return s.write(ctx, "delete operator", name, []audit.Note{note}, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM operator WHERE name = ?", name)
		return changed(res, err, noOperator("delete operator", name))
	})
}

func noOperator(op, name string) error {
	return fault.Newf(fault.NotFound, op, name, "there is none of that name")
}

// AddSession adds a sign-in.
func (s *Store) AddSession(ctx context.Context, x store.Session, note audit.Note) error {
	return s.write(ctx, "begin session", x.Name, []audit.Note{note}, func(tx *sql.Tx) error {
		doc, err := json.Marshal(x)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO session (hash, doc) VALUES (?, ?)", x.Hash[:], string(doc))
		return err
	})
}

// Session finds a sign-in by its hash.
func (s *Store) Session(ctx context.Context, hash fleet.Digest) (store.Session, error) {
	return one[store.Session](ctx, s.r, "find session", "", "SELECT doc FROM session WHERE hash = ?", hash[:])
}

// Sessions lists the sign-ins.
func (s *Store) Sessions(ctx context.Context) ([]store.Session, error) {
	return all[store.Session](ctx, s.r, "list sessions", "SELECT doc FROM session ORDER BY hash")
}

// TouchSession notes when a session was last used.
func (s *Store) TouchSession(ctx context.Context, hash fleet.Digest, at time.Time) error {
	return s.write(ctx, "note use of session", "", nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE session SET doc = json_set(doc, '$.Seen', ?) WHERE hash = ?", at.UTC().Format(time.RFC3339Nano), hash[:])
		return err
	})
}

// EndSessions ends sign-ins and keeps why.
func (s *Store) EndSessions(ctx context.Context, hashes []fleet.Digest, why string, notes ...audit.Note) error {
	return s.write(ctx, "end sessions", "", notes, func(tx *sql.Tx) error {
		for _, h := range hashes {
			if _, err := tx.ExecContext(ctx, "UPDATE session SET doc = json_set(doc, '$.Over', ?) WHERE hash = ?", why, h[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetSessions removes sign-ins.
func (s *Store) ForgetSessions(ctx context.Context, hashes []fleet.Digest) error {
	return s.write(ctx, "forget sessions", "", nil, func(tx *sql.Tx) error {
		for _, h := range hashes {
			if _, err := tx.ExecContext(ctx, "DELETE FROM session WHERE hash = ?", h[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
