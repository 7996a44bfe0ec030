package audit

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// keepPartial is how long a partial tile stays once a wider one is there: who holds
// a checkpoint that is not older has all that it speaks of, also in the middle of
// reading it.
const keepPartial = 24 * time.Hour

// SweepEvery is how often it is worth to look for what may be removed.
const SweepEvery = 6 * time.Hour

// Sweep removes the partial tiles that a wider one took the place of more than a day
// ago, as C2SP's tlog-tiles permits; those of the newest checkpoint stay in any case.
// A crash in between is repeated harmlessly. A bucket that removes nothing keeps all.
func (l *Log) Sweep(ctx context.Context, now time.Time) (removed int, err error) {
	bucket, can := l.o.Bucket.(registry.Remover)
	head := l.Head()
	if !can || head.Note == "" {
		return 0, nil
	}
	needed := map[string]bool{}
	for _, t := range ledger.Tiles(0, head.Size) {
		needed[ledger.TileKey(t)] = true
	}
	tiles := map[string][]partial{} // by the full tile's key
	for o, err := range l.o.Bucket.List(ctx, ledger.TilePrefix) {
		if err != nil {
			return 0, fault.New(fault.KindOf(err), "sweep audit log", ledger.TilePrefix, err)
		}
		full, width := parsePartial(o.Key)
		tiles[full] = append(tiles[full], partial{o.Key, width, o.Modified})
	}
	for _, ps := range tiles {
		for _, p := range ps {
			if needed[p.key] || !replaced(p, ps, now.Add(-keepPartial)) {
				continue
			}
			if err := bucket.Remove(ctx, p.key); err != nil {
				return removed, fault.New(fault.KindOf(err), "sweep audit log", p.key, err).WithHint("let the coordinator remove objects below audit/tile/, audit/proof/ and proposals/ (s3:DeleteObject)")
			}
			removed++
		}
	}
	return removed, nil
}

// partial is a tile that lies in the bucket, with what is full among them.
type partial struct {
	key      string
	width    int
	modified time.Time
}

// parsePartial is the key of the full tile and the width.
func parsePartial(key string) (full string, width int) {
	full, w, is := strings.Cut(key, ".p/")
	if n, err := strconv.Atoi(w); is && err == nil {
		return full, n
	}
	return key, 1 << ledger.TileHeight
}

// replaced reports whether a wider one of the same tile is there since before a time.
func replaced(p partial, all []partial, before time.Time) bool {
	for _, o := range all {
		if o.width > p.width && o.modified.Before(before) {
			return true
		}
	}
	return false
}
