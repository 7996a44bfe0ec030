// Package sqlite keeps the coordinator's memory in one SQLite file: write-ahead
// log, full synchronisation, one writer. It implements store.Store; its promises
// are those of that package.
//
// Two connections pools share the file: one connection writes, so that writers
// queue in Go and never meet SQLITE_BUSY, and a few read. Schema changes are
// the files NNNN.sql, applied in order at the start, each in a transaction.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	sqlite3 "modernc.org/sqlite"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

//go:embed *.sql
var migrations embed.FS

// Store is a SQLite file. Make one with [Open].
type Store struct {
	w *sql.DB // exactly one connection
	r *sql.DB
}

var _ store.Store = (*Store)(nil)

// Open opens the file at path, makes it if it is not there, and brings its
// schema up to date.
func Open(ctx context.Context, path string) (*Store, error) {
	// The database holds hashes of secrets and members' data: for its owner only.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.New(fault.Invalid, "open store", path, err).
			WithHint("is the data folder there, and may this user write to it?")
	}
	if err := f.Close(); err != nil {
		return nil, fault.New(fault.Internal, "open store", path, err)
	}
	dsn := func(extra string) string {
		return "file:" + (&url.URL{Path: path}).EscapedPath() +
			"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)" + extra
	}
	s := &Store{}
	if s.w, err = sql.Open("sqlite", dsn("&_txlock=immediate")); err != nil {
		return nil, fail("open store", path, err)
	}
	s.w.SetMaxOpenConns(1)
	if s.r, err = sql.Open("sqlite", dsn("&_pragma=query_only(1)")); err != nil {
		return nil, fail("open store", path, errors.Join(err, s.w.Close()))
	}
	s.r.SetMaxOpenConns(4)
	if err := s.migrate(ctx); err != nil {
		return nil, fail("open store", path, errors.Join(err, s.Close()))
	}
	return s, nil
}

// Close closes the file.
func (s *Store) Close() error { return errors.Join(s.r.Close(), s.w.Close()) }

// migrate applies the migrations that the file has not seen.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		return err
	}
	var have int
	if err := s.w.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > len(names) {
		return fault.Newf(fault.Invalid, "migrate", "", "the file is of schema %d, this program knows up to %d", have, len(names)).
			WithHint("run the coordinator version that wrote it, or a newer one")
	}
	for i, name := range names[have:] {
		script, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		err = s.tx(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, string(script)); err != nil {
				return fmt.Errorf("apply %s: %w", name, err)
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", have+i+1))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tx runs fn in a write transaction.
func (s *Store) tx(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		if rerr := tx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			err = errors.Join(err, rerr)
		}
		return err
	}
	return tx.Commit()
}

// write runs fn and then appends the notes, in one transaction.
func (s *Store) write(ctx context.Context, op, subject string, notes []audit.Note, fn func(*sql.Tx) error) error {
	return fail(op, subject, s.tx(ctx, func(tx *sql.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return appendNotes(ctx, tx, notes)
	}))
}

// fail classifies an error of the database.
func fail(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	kind := fault.Internal
	var hint string
	if e, ok := errors.AsType[*sqlite3.Error](err); ok {
		switch e.Code() & 0xff {
		case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
			kind, hint = fault.Transient, "another process has the database open: one coordinator per data folder"
		case 13: // SQLITE_FULL
			kind, hint = fault.Exhausted, "make room on the disk of the data folder"
		case 8, 14: // SQLITE_READONLY, SQLITE_CANTOPEN
			kind, hint = fault.Invalid, "may this user write to the data folder?"
		case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
			hint = "the file is damaged: restore it from a copy"
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		kind = fault.KindOf(err)
	}
	f := fault.New(kind, op, subject, err)
	if hint != "" {
		f = f.WithHint("%s", hint)
	}
	return f
}

// one reads a single document.
func one[T any](ctx context.Context, db *sql.DB, op, subject, query string, args ...any) (T, error) {
	var v T
	var doc []byte
	err := db.QueryRowContext(ctx, query, args...).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return v, fault.Newf(fault.NotFound, op, subject, "there is none of that name")
	}
	if err == nil {
		err = json.Unmarshal(doc, &v)
	}
	return v, fail(op, subject, err)
}

// all reads the documents of a query.
func all[T any](ctx context.Context, db *sql.DB, op, query string, args ...any) ([]T, error) {
	return scan(ctx, db, op, func(rows *sql.Rows) (v T, err error) {
		var doc []byte
		if err = rows.Scan(&doc); err == nil {
			err = json.Unmarshal(doc, &v)
		}
		return v, err
	}, query, args...)
}

// scan reads one value a row.
func scan[T any](ctx context.Context, db *sql.DB, op string, read func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fail(op, "", err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := read(rows)
		if err != nil {
			return nil, fail(op, "", err)
		}
		out = append(out, v)
	}
	return out, fail(op, "", rows.Err())
}

// changed makes a Conflict or NotFound of a statement that touched nothing.
func changed(res sql.Result, err error, otherwise error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return otherwise
	}
	return err
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func digest(b []byte) (d fleet.Digest) {
	copy(d[:], b)
	return d
}
