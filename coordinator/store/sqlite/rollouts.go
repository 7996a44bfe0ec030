package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Releases lists every release ever admitted, newest first.
func (s *Store) Releases(ctx context.Context) ([]store.Release, error) {
	return all[store.Release](ctx, s.r, "list releases",
		"SELECT json_set(doc, '$.Revoked', json(iif(revoked, 'true', 'false'))) FROM release ORDER BY admitted DESC, ref DESC")
}

// Admit adds releases and marks those that are no longer listed.
func (s *Store) Admit(ctx context.Context, a store.Admission, notes ...audit.Note) error {
	return s.write(ctx, "admit releases", string(a.Team), notes, func(tx *sql.Tx) error {
		for _, r := range a.Admitted {
			doc, err := json.Marshal(r)
			if err != nil {
				return err
			}
			// What was delisted and is listed again may have another counter.
			_, err = tx.ExecContext(ctx, "INSERT INTO release (ref, admitted, doc) VALUES (?, ?, ?) ON CONFLICT (ref) DO UPDATE SET revoked = 0, admitted = excluded.admitted, doc = excluded.doc",
				r.Ref(), nanos(r.Admitted), string(doc))
			if err != nil {
				return err
			}
		}
		for _, ref := range a.Revoked {
			res, err := tx.ExecContext(ctx, "UPDATE release SET revoked = 1 WHERE ref = ?", ref)
			if err := changed(res, err, fault.Newf(fault.NotFound, "revoke release", ref, "it was never admitted")); err != nil {
				return err
			}
		}
		return nil
	})
}

// Rollouts lists rollouts, newest first.
func (s *Store) Rollouts(ctx context.Context, live bool) ([]store.Rollout, error) {
	where := ""
	if live {
		where = "WHERE ended = 0 "
	}
	return all[store.Rollout](ctx, s.r, "list rollouts", "SELECT doc FROM rollout "+where+"ORDER BY started DESC, id DESC")
}

// Rollout is one rollout.
func (s *Store) Rollout(ctx context.Context, id fleet.RolloutID) (store.Rollout, error) {
	r, err := one[store.Rollout](ctx, s.r, "find rollout", string(id), "SELECT doc FROM rollout WHERE id = ?", string(id))
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.NotFound {
		err = f.WithHint("list them with `modelfleet rollout list`")
	}
	return r, err
}

// AddRollout adds a rollout.
func (s *Store) AddRollout(ctx context.Context, r store.Rollout, note audit.Note) error {
	return s.write(ctx, "start rollout", string(r.ID), []audit.Note{note}, func(tx *sql.Tx) error {
		doc, err := json.Marshal(r)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "INSERT INTO rollout (id, started, ended, doc) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			string(r.ID), nanos(r.Started), nanos(r.Ended), string(doc))
		return changed(res, err, fault.Newf(fault.Conflict, "start rollout", string(r.ID), "the id is taken"))
	})
}

// AddCommand keeps a command and gives it its number.
func (s *Store) AddCommand(ctx context.Context, c store.Command, note audit.Note) error {
	return s.write(ctx, "command rollout", string(c.Rollout), []audit.Note{note}, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, "SELECT count(*) + 1 FROM command WHERE rollout = ?", string(c.Rollout)).Scan(&c.Seq); err != nil {
			return err
		}
		doc, err := json.Marshal(c)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO command (rollout, seq, doc) VALUES (?, ?, ?)", string(c.Rollout), int64(c.Seq), string(doc))
		return err
	})
}

// Commands lists a rollout's commands above after, in order.
func (s *Store) Commands(ctx context.Context, id fleet.RolloutID, after uint64) ([]store.Command, error) {
	return all[store.Command](ctx, s.r, "list commands", "SELECT doc FROM command WHERE rollout = ? AND seq > ? ORDER BY seq", string(id), int64(after))
}

// Standings lists what is remembered of a rollout's members, by member.
func (s *Store) Standings(ctx context.Context, id fleet.RolloutID) ([]store.Standing, error) {
	return scan(ctx, s.r, "list standings", func(rows *sql.Rows) (st store.Standing, err error) {
		var member, doc string
		err = rows.Scan(&member, &doc)
		return store.Standing{Rollout: id, Member: fleet.MemberID(member), Body: json.RawMessage(doc)}, err
	}, "SELECT member, doc FROM standing WHERE rollout = ? ORDER BY member", string(id))
}

// Samples is a rollout's history, oldest first.
func (s *Store) Samples(ctx context.Context, id fleet.RolloutID) ([]api.Sample, error) {
	return all[api.Sample](ctx, s.r, "read history", "SELECT doc FROM sample WHERE rollout = ? ORDER BY at", string(id))
}

// Commit writes a decision in one transaction.
func (s *Store) Commit(ctx context.Context, d store.Decision) error {
	return s.write(ctx, "commit decision", "", d.Notes, func(tx *sql.Tx) error {
		for _, r := range d.Rollouts {
			doc, err := json.Marshal(r)
			if err != nil {
				return err
			}
			res, err := tx.ExecContext(ctx, "UPDATE rollout SET ended = ?, doc = ? WHERE id = ?", nanos(r.Ended), string(doc), string(r.ID))
			if err := changed(res, err, fault.Newf(fault.NotFound, "commit decision", string(r.ID), "there is no such rollout")); err != nil {
				return err
			}
		}
		for _, st := range d.Standings {
			_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO standing (rollout, member, doc) VALUES (?, ?, ?)", string(st.Rollout), string(st.Member), string(st.Body))
			if err != nil {
				return err
			}
		}
		for _, id := range slices.Sorted(maps.Keys(d.Samples)) {
			sample := d.Samples[id]
			doc, err := json.Marshal(sample)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO sample (rollout, at, doc) VALUES (?, ?, ?)", string(id), nanos(sample.At), string(doc)); err != nil {
				return err
			}
		}
		if d.Directive == nil {
			return nil
		}
		return putDirective(ctx, tx, *d.Directive)
	})
}

func putDirective(ctx context.Context, tx *sql.Tx, d store.Directive) error {
	var newest int64
	err := tx.QueryRowContext(ctx, "SELECT coalesce(max(sequence), 0) FROM directive WHERE grp = ?", string(d.Group)).Scan(&newest)
	if err != nil {
		return err
	}
	if newest != 0 && d.Sequence != uint64(newest)+1 {
		return fault.Newf(fault.Conflict, "commit decision", fmt.Sprintf("directive %d", d.Sequence), "the group's newest is %d", newest).
			WithHint("does another coordinator use this data folder?")
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO directive (grp, sequence, issued, published, body) VALUES (?, ?, ?, ?, ?)",
		string(d.Group), int64(d.Sequence), nanos(d.Issued), nanos(d.Published), d.Body)
	return err
}

// Directive is the group's newest directive.
func (s *Store) Directive(ctx context.Context, g fleet.Group) (store.Directive, error) {
	var issued, published, sequence int64
	d := store.Directive{Group: g}
	err := s.r.QueryRowContext(ctx, "SELECT sequence, issued, published, body FROM directive WHERE grp = ? ORDER BY sequence DESC LIMIT 1", string(g)).
		Scan(&sequence, &issued, &published, &d.Body)
	if errors.Is(err, sql.ErrNoRows) {
		return d, fault.Newf(fault.NotFound, "find directive", string(g), "the group has none yet")
	}
	d.Sequence, d.Issued, d.Published = uint64(sequence), instant(issued), instant(published)
	return d, fail("find directive", string(g), err)
}

// MarkPublished notes that members can see the directive.
func (s *Store) MarkPublished(ctx context.Context, g fleet.Group, sequence uint64, at time.Time, notes ...audit.Note) error {
	return s.write(ctx, "mark directive published", string(g), notes, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "UPDATE directive SET published = ? WHERE grp = ? AND sequence = ?", nanos(at), string(g), int64(sequence))
		return changed(res, err, fault.Newf(fault.NotFound, "mark directive published", string(g), "there is no directive %d", sequence))
	})
}

// SavePublication keeps signed bytes until they are in the bucket; nil forgets them.
func (s *Store) SavePublication(ctx context.Context, signed []byte) error {
	return s.write(ctx, "save publication", "", nil, func(tx *sql.Tx) error {
		if signed == nil {
			_, err := tx.ExecContext(ctx, "DELETE FROM publication")
			return err
		}
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO publication (id, signed) VALUES (1, ?)", signed)
		return err
	})
}

// Publication is what SavePublication kept; nil when there is nothing.
func (s *Store) Publication(ctx context.Context) ([]byte, error) {
	var signed []byte
	err := s.r.QueryRowContext(ctx, "SELECT signed FROM publication").Scan(&signed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return signed, fail("read publication", "", err)
}
