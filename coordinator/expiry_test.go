package coordinator_test

import (
	"context"
	"crypto"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// believes is what a member that comes now makes of the pack in the bucket.
func (w *world) believes() (trust.Trusted, error) {
	w.t.Helper()
	pack, err := w.get(w.t.Context(), fleet.DefaultGroup.PackKey())
	if err != nil {
		return trust.Trusted{}, err
	}
	st := must(trust.NewState(w.root, fleet.DigestOf(w.root)))(w.t)
	got, _, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return got, nil
}

// A fleet whose offline keys nobody has used for too long has a coordinator that
// starts, serves, takes releases up and says what is wrong; members hold.
func TestAnExpiredRootAndPolicyStopNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *repository.InitOptions) {
		o.Now = time.Now().Add(-400 * 24 * time.Hour)
	})
	w.start()
	w.admit("1.0.0")
	got, err := w.believes()
	if err != nil || got.Freshness != trust.Stale || got.Expired != "root" && got.Expired != "targets" {
		t.Errorf("a member: %s by %q, %v", got.Freshness, got.Expired, err)
	}
	if !strings.Contains(w.logs.String(), "packs are stale until the keepers of the role sign it anew") {
		t.Error("the coordinator does not say so")
	}
	ok(t, w.stop())
	w.start() // and again
	if r := must(w.admin.Releases(t.Context()))(t); len(r) != 1 {
		t.Errorf("%d releases after a restart", len(r))
	}
}

// Where the heartbeat alone holds the timestamp's key, a coordinator starts without
// it, says that it waits, and shows a directive once it was stamped.
func TestACoordinatorWithoutTheTimestampsKey(t *testing.T) {
	t.Parallel()
	heart := must(signer.Ephemeral())(t)
	w := newWorld(t, func(o *repository.InitOptions) { o.Timestamp = []crypto.PublicKey{heart.Public()} })
	w.opts.TimestampKey = coordinator.NoKey
	w.opts.Await = 100 * time.Millisecond
	w.start()
	w.eventually("the coordinator says that it waits", func() bool {
		return strings.Contains(w.logs.String(), "no heartbeat has stamped the directive 1")
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		for ; ctx.Err() == nil; <-time.After(50 * time.Millisecond) {
			repo, err := repository.Open(ctx, w.get, repository.Options{Root: w.root, Timestamp: heart})
			if err != nil {
				continue
			}
			pub, signed, err := repo.Stamp(time.Now())
			if err != nil || !signed {
				continue
			}
			for _, x := range pub.Writes {
				_, etag, _ := w.bucket.Get(ctx, x.Key, "")
				if _, err := w.bucket.Swap(ctx, x.Key, x.Body, etag); err != nil {
					break
				}
			}
		}
	}()
	w.eventually("the first directive is shown", func() bool {
		reply, err := w.admin.Pack(t.Context(), fleet.DefaultGroup, "", 0)
		return err == nil && len(reply.Pack) > 0
	})
	w.admit("1.0.0")
	w.eventually("members see the snapshot with the release", func() bool {
		got, err := w.believes()
		return err == nil && got.Freshness == trust.Fresh && got.Versions["snapshot"] >= 2
	})
	stop()
	<-beats
}

func TestTheTimeIsSignedForWhoAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	got, err := w.believes()
	ok(t, err)
	n := trust.NewNonce()
	signed := must(w.admin.Time(t.Context(), n))(t)
	at := must(signed.Verify(n, got.FleetKeys))(t)
	if d := time.Since(at); d < -time.Second || d > time.Minute {
		t.Errorf("the time is off by %s", d)
	}
	if _, err := signed.Verify(trust.NewNonce(), got.FleetKeys); trust.RuleOf(err) != trust.RuleTime {
		t.Errorf("an answer to another question: %v", err)
	}
	// Who shows no certificate is served a few times.
	for range 10 {
		_, err = w.admin.Time(t.Context(), trust.NewNonce())
	}
	if !fault.Is(err, fault.Transient) {
		t.Errorf("asked again and again: %v", err)
	}
}
