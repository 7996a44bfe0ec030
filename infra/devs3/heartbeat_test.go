package devs3_test

import (
	"context"
	"crypto"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// A coordinator publishes and heartbeats sign, all on the same objects of a real
// S3 server at the same time, and as often as they can: the timestamp's life is so
// short that each look finds it due. No conflict ends anyone's work, and what a
// member sees never goes back.
func TestCoordinatorAndHeartbeatsWriteAtTheSameTime(t *testing.T) {
	t.Parallel()
	for name, alone := range map[string]bool{"two keys": false, "the heartbeat's key alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, devs3.Options{Dir: t.TempDir()})
			t.Cleanup(func() {
				if err := p.Stop(); err != nil {
					t.Error(err)
				}
			})
			race(t, open(t, p), alone)
		})
	}
}

const directives = 15

func race(t *testing.T, bucket *s3.Store, alone bool) {
	key := func() *signer.Signer {
		s, err := signer.Ephemeral()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// Long before the server's clock, which nobody who signs may be far ahead of.
	start := time.Now().Add(-60 * 24 * time.Hour)
	coord, stamp, heart := key(), key(), key()
	keys := []crypto.PublicKey{heart.Public()}
	if !alone {
		keys = append(keys, stamp.Public())
	}
	g, err := repository.Init(repository.InitOptions{
		Fleet: "plant", Now: start, Root: []signature.Signer{key()}, Coordinator: coord.Public(), Timestamp: keys,
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{key().Public()}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range g.Writes {
		if _, err := bucket.Create(t.Context(), w.Key, registry.BodyOf(w.Body)); err != nil {
			t.Fatal(err)
		}
	}
	life := repository.Lifetimes{Timestamp: 30 * time.Second}
	o := publish.Options{
		Bucket: bucket, Store: &kept{}, Root: g.Root, Coordinator: coord, Lifetimes: life, Await: 30 * time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
	if !alone {
		o.Timestamp = stamp
	}
	pub, err := publish.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	// Everybody's clock: at each look it is a quarter of a minute later, so that
	// something is due.
	var looks atomic.Int64
	now := func() time.Time { return start.Add(time.Duration(looks.Add(1)) * 15 * time.Second) }
	beats, signed := make([]int, 2), make([]int, 2)
	for i := range beats { // a schedule and a notification may come together
		wg.Go(func() {
			b := beat.Options{Bucket: bucket, Pin: g.Pin, Key: heart, Life: life.Timestamp, Logger: slog.New(slog.DiscardHandler)}
			for n := 0; ctx.Err() == nil; n++ {
				res, err := beat.Beat(ctx, b, now())
				switch {
				case err == nil:
					beats[i]++
				case ctx.Err() != nil, fault.Is(err, fault.NotFound), fault.Is(err, fault.Transient):
				default:
					t.Errorf("beat %d: %v", n, err)
					return
				}
				if res.Signed {
					signed[i]++
				}
			}
		})
	}
	wg.Go(func() { watch(ctx, t, bucket, g, start) })
	for seq := uint64(1); seq <= directives; seq++ {
		d := fleet.Directive{Schema: fleet.DirectiveSchema, Group: fleet.DefaultGroup, Sequence: seq, Issued: time.Unix(int64(seq), 0).UTC(), Models: []fleet.Placement{}}
		body, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pub.Publish(ctx, body, now()); err != nil {
			t.Fatalf("directive %d: %v", seq, err)
		}
		if _, _, err := pub.Refresh(ctx, now()); err != nil {
			t.Fatalf("renewal after directive %d: %v", seq, err)
		}
		if got, ok := pub.Pack(fleet.DefaultGroup); !ok || got.Sequence != seq {
			t.Fatalf("the coordinator shows directive %d, want %d", got.Sequence, seq)
		}
	}
	stop()
	wg.Wait()
	t.Logf("beats %v, of which signed %v; timestamp %d", beats, signed, newest(t, bucket, g, start))
	if signed[0]+signed[1] < 2 {
		t.Errorf("heartbeats signed %v times: there was no race", signed)
	}
}

// watch is a member: it believes each pack it finds, and none may be older.
func watch(ctx context.Context, t *testing.T, bucket registry.Reader, g repository.Genesis, at time.Time) {
	st, err := trust.NewState(g.Root, g.Pin)
	if err != nil {
		t.Error(err)
		return
	}
	for ctx.Err() == nil {
		pack, _, err := bucket.Get(ctx, fleet.DefaultGroup.PackKey(), "")
		if err != nil {
			continue // none yet, or the end
		}
		got, next, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, at)
		if err != nil {
			t.Errorf("a member that saw directive %d: %v", st.Sequence, err)
			return
		}
		if got.Freshness == trust.Fresh {
			st = next
		}
	}
}

// newest is the version of the timestamp at the end, which a new member believes.
func newest(t *testing.T, bucket registry.Reader, g repository.Genesis, at time.Time) int64 {
	t.Helper()
	pack, _, err := bucket.Get(t.Context(), fleet.DefaultGroup.PackKey(), "")
	if err != nil {
		t.Fatal(err)
	}
	st, err := trust.NewState(g.Root, g.Pin)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, at)
	if err != nil || got.Directive.Sequence != directives {
		t.Fatalf("at the end: directive %d, %v", got.Directive.Sequence, err)
	}
	return got.Versions["timestamp"]
}

// kept is a publication store in memory.
type kept struct{ raw []byte }

func (k *kept) SavePublication(_ context.Context, signed []byte) error { k.raw = signed; return nil }
func (k *kept) Publication(context.Context) ([]byte, error)            { return k.raw, nil }
