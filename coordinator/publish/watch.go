package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Tampered is an object that lies in the bucket as nobody of this fleet left it.
type Tampered struct {
	Key    string       `json:"key"`
	Digest fleet.Digest `json:"digest,omitzero"` // of what lies there; zero: nothing does
	Size   int          `json:"size"`
	// Ignored says that it stays there: nobody signed what lies in place of the next
	// root, so that it counts for nothing, and the next ceremony writes over it.
	Ignored bool `json:"ignored,omitempty"`
}

// String says what was found.
func (t Tampered) String() string {
	if t.Digest.IsZero() {
		return "it was taken away"
	}
	return fmt.Sprintf("somebody else put %d bytes there, of digest %s", t.Size, t.Digest.Short())
}

// Mended counts the objects that were found tampered with since the start.
func (p *Publisher) Mended() uint64 { return p.mended.Load() }

// watch compares the mutable objects in the bucket with what was published, now
// and then, and puts back what somebody else changed; the caller holds writing.
func (p *Publisher) watch(ctx context.Context, now time.Time) error {
	if now.Sub(p.watched) < cmp.Or(p.o.Reload, reloadEvery) {
		return nil
	}
	p.watched = now
	var all error
	for key, own := range p.own() {
		all = errors.Join(all, p.mend(ctx, key, own))
	}
	return all
}

// own is what lies in the bucket as far as this publisher knows, by key.
func (p *Publisher) own() map[string][]byte {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out, newest := map[string][]byte{}, uint64(0)
	for g, pack := range p.packs {
		out[g.PackKey()] = pack.Body
		if pack.Version >= newest {
			newest = pack.Version
			out[trust.MetadataKey("timestamp", 0)] = repository.TimestampIn(pack.Body)
		}
	}
	return out
}

// mend puts own back where something else lies that is not newer.
func (p *Publisher) mend(ctx context.Context, key string, own []byte) error {
	had, etag, err := p.o.Bucket.Get(ctx, key, p.etags[key])
	switch {
	case errors.Is(err, registry.ErrNotModified):
		return nil
	case fault.Is(err, fault.NotFound):
		had, etag = nil, ""
	case err != nil:
		return err
	case bytes.Equal(had, own):
		p.etags[key] = etag
		return nil
	case p.repo.Newer(had, own):
		return nil // a heartbeat's, or another coordinator's: look tells them apart
	}
	if err := p.accuse(ctx, key, had); err != nil {
		return err
	}
	_, err = p.o.Bucket.Swap(ctx, key, own, etag)
	if fault.Is(err, fault.Conflict) {
		return nil // somebody was faster: the next turn looks at theirs
	}
	return err
}

// disown tells, once, of what lies in place of the next root.
func (p *Publisher) disown(ctx context.Context) error {
	s := p.repo.Stray()
	if s == nil {
		p.disowned = fleet.Digest{}
		return nil
	}
	sum := fleet.DigestOf(s.Body)
	if sum == p.disowned {
		return nil
	}
	p.o.Logger.Warn("what lies in place of the next root is ignored", "key", s.Key, "err", s.Err, "hint", fault.Hint(s.Err))
	if p.o.Tampered != nil {
		if err := p.o.Tampered(ctx, Tampered{Key: s.Key, Digest: sum, Size: len(s.Body), Ignored: true}); err != nil {
			return err
		}
	}
	p.disowned = sum
	return nil
}

// suspect tells of what is about to be replaced when nobody of the fleet signed it.
func (p *Publisher) suspect(ctx context.Context, key string, had []byte) error {
	own, known := p.own()[key]
	_, authentic := p.repo.TimestampVersion(repository.TimestampIn(had))
	if !known || authentic || bytes.Equal(had, own) {
		return nil
	}
	return p.accuse(ctx, key, had)
}

// accuse tells of an object that somebody else changed, before it is put right.
func (p *Publisher) accuse(ctx context.Context, key string, had []byte) error {
	t := Tampered{Key: key, Size: len(had)}
	if had != nil {
		t.Digest = fleet.DigestOf(had)
	}
	p.o.Logger.Error("bucket was tampered with", "key", key, "found", t.String(), "hint", "find who writes to the bucket besides coordinator and heartbeat")
	if p.o.Tampered != nil {
		if err := p.o.Tampered(ctx, t); err != nil {
			return err
		}
	}
	p.mended.Add(1)
	return nil
}
