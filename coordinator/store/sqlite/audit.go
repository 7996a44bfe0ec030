package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// querier is what reads in a transaction and outside have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func appendNotes(ctx context.Context, tx *sql.Tx, notes []audit.Note) error {
	for _, n := range notes {
		e, err := n.Entry()
		if err != nil {
			return err
		}
		leaf, aside, err := e.Leaf()
		if err != nil {
			return fault.New(fault.Internal, "write audit entry", n.Action, err)
		}
		if err := appendLeaf(ctx, tx, e, leaf, aside); err != nil {
			return err
		}
	}
	return nil
}

func appendLeaf(ctx context.Context, tx *sql.Tx, e ledger.Entry, leaf, aside []byte) error {
	size, err := auditSize(ctx, tx)
	if err != nil {
		return err
	}
	hashes, err := tlog.StoredHashes(int64(size), leaf, hashReader(ctx, tx))
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO audit (idx, leaf, action, subject) VALUES (?, ?, ?, ?)", int64(size)+1, leaf, e.Action, e.Subject); err != nil {
		return err
	}
	first := tlog.StoredHashIndex(0, int64(size))
	for i, h := range hashes {
		if _, err := tx.ExecContext(ctx, "INSERT INTO audit_hash (idx, hash) VALUES (?, ?)", first+int64(i), h[:]); err != nil {
			return err
		}
	}
	if aside != nil {
		sum := fleet.DigestOf(aside)
		if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO audit_aside (digest, body) VALUES (?, ?)", sum[:], aside); err != nil {
			return err
		}
	}
	return nil
}

func auditSize(ctx context.Context, q querier) (n uint64, err error) {
	err = q.QueryRowContext(ctx, "SELECT coalesce(max(idx), 0) FROM audit").Scan(&n)
	return n, err
}

func hashReader(ctx context.Context, q querier) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			var b []byte
			if err := q.QueryRowContext(ctx, "SELECT hash FROM audit_hash WHERE idx = ?", x).Scan(&b); err != nil {
				return nil, fmt.Errorf("audit hash %d: %w", x, err)
			}
			copy(out[i][:], b)
		}
		return out, nil
	})
}

// AuditSize is the number of entries.
func (s *Store) AuditSize(ctx context.Context) (uint64, error) {
	n, err := auditSize(ctx, s.r)
	return n, fail("read audit log", "", err)
}

// AuditHashes reads the tree's hashes.
func (s *Store) AuditHashes(ctx context.Context) tlog.HashReader { return hashReader(ctx, s.r) }

// AuditLeaves is at most limit leaves from an index, counted from 0, on.
func (s *Store) AuditLeaves(ctx context.Context, from uint64, limit int) ([][]byte, error) {
	return scan(ctx, s.r, "read audit log", func(rows *sql.Rows) (b []byte, err error) { return b, rows.Scan(&b) },
		"SELECT leaf FROM audit WHERE idx > ? ORDER BY idx LIMIT ?", int64(from), limit)
}

// AuditAside is a detail that lies aside.
func (s *Store) AuditAside(ctx context.Context, digest fleet.Digest) ([]byte, error) {
	var b []byte
	err := s.r.QueryRowContext(ctx, "SELECT body FROM audit_aside WHERE digest = ?", digest[:]).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.Newf(fault.NotFound, "read audit detail", digest.Short(), "there is none of that digest")
	}
	return b, fail("read audit detail", digest.Short(), err)
}

// AuditNewest is the newest entry of an action about a subject, with its index
// from 0.
func (s *Store) AuditNewest(ctx context.Context, action, subject string) (index uint64, leaf []byte, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT idx, leaf FROM audit WHERE action = ? AND subject = ? ORDER BY idx DESC LIMIT 1", action, subject).Scan(&index, &leaf)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil, fault.Newf(fault.NotFound, "read audit log", subject, "no entry %s is about it", action)
	}
	return index - 1, leaf, fail("read audit log", subject, err)
}

// RestoreAudit appends leaves that were signed before and are missing here; check
// sees the tree with them before they are kept.
func (s *Store) RestoreAudit(ctx context.Context, leaves, asides [][]byte, check func(tlog.HashReader) error) error {
	const op = "restore audit log"
	return fail(op, "", s.tx(ctx, func(tx *sql.Tx) error {
		for _, leaf := range leaves {
			e, err := ledger.ParseEntry(leaf)
			if err != nil {
				return fault.New(fault.Untrusted, op, "", err)
			}
			if err := appendLeaf(ctx, tx, e, leaf, nil); err != nil {
				return err
			}
		}
		for _, a := range asides {
			sum := fleet.DigestOf(a)
			if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO audit_aside (digest, body) VALUES (?, ?)", sum[:], a); err != nil {
				return err
			}
		}
		return check(hashReader(ctx, tx))
	}))
}

// SaveAuditHead keeps a checkpoint that went into a pack.
func (s *Store) SaveAuditHead(ctx context.Context, size uint64, note string) error {
	_, err := s.w.ExecContext(ctx, "INSERT OR REPLACE INTO audit_head (size, note) VALUES (?, ?)", int64(size), note)
	return fail("keep checkpoint", "", err)
}

// AuditHeads is the sizes of the newest n checkpoints that went into packs,
// newest first.
func (s *Store) AuditHeads(ctx context.Context, n int) ([]uint64, error) {
	return scan(ctx, s.r, "read checkpoints", func(rows *sql.Rows) (v uint64, err error) { return v, rows.Scan(&v) },
		"SELECT size FROM audit_head ORDER BY size DESC LIMIT ?", n)
}

// maxSplits bounds what lying members can have kept: the first are what matters.
const maxSplits = 256

// AddSplit keeps evidence of another history, once; added is false when it was
// there.
func (s *Store) AddSplit(ctx context.Context, v api.AuditSplit, notes ...audit.Note) (added bool, err error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	sum := fleet.DigestOf([]byte(string(v.Member) + "\x00" + v.Theirs + "\x00" + v.Claim))
	err = s.write(ctx, "keep evidence", "", nil, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO audit_split (digest, doc) SELECT ?, ? WHERE (SELECT count(*) FROM audit_split) < ?", sum[:], doc, maxSplits)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if added = n > 0; err != nil || !added {
			return err
		}
		return appendNotes(ctx, tx, notes)
	})
	return added && err == nil, err
}

// Splits is the evidence of other histories, oldest first.
func (s *Store) Splits(ctx context.Context) ([]api.AuditSplit, error) {
	return all[api.AuditSplit](ctx, s.r, "read evidence", "SELECT doc FROM audit_split ORDER BY id")
}

const selectEntry = "SELECT a.idx, a.leaf FROM audit a"

// Audit lists entries above after, oldest first, with the details that lie aside.
func (s *Store) Audit(ctx context.Context, after uint64, limit int) ([]api.AuditEntry, error) {
	return s.entries(ctx, selectEntry+" WHERE a.idx > ? ORDER BY a.idx LIMIT ?", int64(after), limit)
}

// AuditTail is the newest n entries, oldest first.
func (s *Store) AuditTail(ctx context.Context, n int) ([]api.AuditEntry, error) {
	return s.entries(ctx, "SELECT * FROM ("+selectEntry+" ORDER BY a.idx DESC LIMIT ?) ORDER BY idx", n)
}

func (s *Store) entries(ctx context.Context, query string, args ...any) ([]api.AuditEntry, error) {
	const op = "read audit log"
	out, err := scan(ctx, s.r, op, func(rows *sql.Rows) (a api.AuditEntry, err error) {
		var leaf []byte
		if err = rows.Scan(&a.Index, &leaf); err == nil {
			a.Entry, err = ledger.ParseEntry(leaf)
		}
		return a, err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	for i, a := range out {
		if a.Aside == nil {
			continue
		}
		body, err := s.AuditAside(ctx, a.Aside.Digest)
		if err == nil {
			out[i].Entry, err = a.Whole(body)
		}
		if err != nil {
			return nil, fail(op, fmt.Sprintf("entry %d", a.Index), err)
		}
	}
	return out, nil
}

// Append adds entries that go with no other change.
func (s *Store) Append(ctx context.Context, notes ...audit.Note) error {
	return s.write(ctx, "append to audit log", "", notes, func(*sql.Tx) error { return nil })
}
