package sqlite

import (
	"context"
	"database/sql"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Messages lists what members said, in the order of arrival.
func (s *Store) Messages(ctx context.Context) ([]store.Message, error) {
	return scan(ctx, s.r, "list messages", func(rows *sql.Rows) (m store.Message, err error) {
		var received int64
		err = rows.Scan(&received, &m.Via, &m.Bytes)
		m.Received = instant(received)
		return m, err
	}, "SELECT received, via, bytes FROM message ORDER BY seq")
}

// SaveMessages keeps messages; one that is there already stays once.
func (s *Store) SaveMessages(ctx context.Context, ms []store.Message) error {
	if len(ms) == 0 {
		return nil
	}
	return s.write(ctx, "save messages", "", nil, func(tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, "INSERT INTO message (id, received, via, bytes) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING")
		if err != nil {
			return err
		}
		defer stmt.Close()
		for _, m := range ms {
			id := m.ID()
			if _, err := stmt.ExecContext(ctx, id[:], nanos(m.Received), m.Via, m.Bytes); err != nil {
				return err
			}
		}
		return nil
	})
}

// KeepMessages drops all but those named and reports how many it dropped.
func (s *Store) KeepMessages(ctx context.Context, keep map[fleet.Digest]bool) (int, error) {
	dropped := 0
	err := s.write(ctx, "thin out messages", "", nil, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, "SELECT seq, id FROM message")
		if err != nil {
			return err
		}
		defer rows.Close()
		var drop []int64
		for rows.Next() {
			var seq int64
			var id []byte
			if err := rows.Scan(&seq, &id); err != nil {
				return err
			}
			if !keep[digest(id)] {
				drop = append(drop, seq)
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		stmt, err := tx.PrepareContext(ctx, "DELETE FROM message WHERE seq = ?")
		if err != nil {
			return err
		}
		defer stmt.Close()
		for _, seq := range drop {
			if _, err := stmt.ExecContext(ctx, seq); err != nil {
				return err
			}
		}
		dropped = len(drop)
		return nil
	})
	return dropped, err
}
