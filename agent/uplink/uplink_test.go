package uplink_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/uplink"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

func setup(t *testing.T) (*agenttest.Fleet, *agenttest.Coordinator, uplink.Newcomer) {
	t.Helper()
	f := agenttest.New(t)
	f.Direct(nil, nil, 0)
	c := f.Serve()
	return f, c, uplink.Newcomer{
		Dir: filepath.Join(t.TempDir(), "identity"), Token: c.Token(nil), ID: "dev-1", Labels: fleet.Labels{"class": "a"}, Agent: "1.0.0", Platform: "linux/amd64",
	}
}

func TestEnrolmentIsKept(t *testing.T) {
	t.Parallel()
	_, _, n := setup(t)
	if _, _, err := uplink.Load(t.Context(), n.Dir); !fault.Is(err, fault.NotFound) {
		t.Fatalf("before enrolling: %v", err)
	}
	id, key, first, err := uplink.Enrol(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if id.Fleet != agenttest.FleetName || id.Facts.ID != "dev-1" || id.Facts.Labels["class"] != "a" || len(first.Pack) == 0 || len(first.Trust.Root) == 0 {
		t.Fatalf("enrolled as %+v", id)
	}
	again, key2, err := uplink.Load(t.Context(), n.Dir)
	if err != nil || again.Facts.ID != id.Facts.ID || !key2.ECDSA().Equal(key.Public()) {
		t.Fatalf("loaded %+v, %v", again, err)
	}
	for _, name := range []string{"key.pem", "identity.json"} {
		fi, err := os.Stat(filepath.Join(n.Dir, name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
	}
	// A crash before the identity was written costs nothing: the same key enrols again.
	if err := os.Remove(filepath.Join(n.Dir, "identity.json")); err != nil {
		t.Fatal(err)
	}
	_, key3, _, err := uplink.Enrol(t.Context(), n)
	if err != nil || !key3.ECDSA().Equal(key.Public()) {
		t.Fatalf("enrolled again: %v", err)
	}
}

func TestEnrolmentIsRefusedWhenEitherSideIsNotTheTokens(t *testing.T) {
	t.Parallel()
	_, c, n := setup(t)
	for name, bad := range map[string]struct {
		kind fault.Kind
		edit func(*trust.JoinToken)
	}{
		"another root":    {fault.Untrusted, func(j *trust.JoinToken) { j.Root[0] ^= 1 }},
		"another TLS key": {fault.Untrusted, func(j *trust.JoinToken) { j.TLS[0] ^= 1 }},
		"another secret":  {fault.Denied, func(j *trust.JoinToken) { j.Secret[0] ^= 1 }},
		"another group":   {fault.Untrusted, func(j *trust.JoinToken) { j.Group = "other" }},
	} {
		n := n
		n.Dir, n.Token = filepath.Join(t.TempDir(), "id"), c.Token(bad.edit)
		_, _, _, err := uplink.Enrol(t.Context(), n)
		if !fault.Is(err, bad.kind) {
			t.Errorf("%s: %v (%s), want %s", name, err, fault.KindOf(err), bad.kind)
		}
		if _, _, err := uplink.Load(t.Context(), n.Dir); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: an identity was kept: %v", name, err)
		}
	}
	n.Token = "mft1.garbage"
	if _, _, _, err := uplink.Enrol(t.Context(), n); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("garbage: %v", err)
	}
}

func TestEnrolmentWaitsForACoordinatorThatIsAway(t *testing.T) {
	t.Parallel()
	_, c, n := setup(t)
	c.Down(true)
	done := make(chan error, 1)
	go func() {
		_, _, _, err := uplink.Enrol(t.Context(), n)
		done <- err
	}()
	time.AfterFunc(300*time.Millisecond, func() { c.Down(false) })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, n uplink.Newcomer, o uplink.Options) (*uplink.Uplink, func()) {
	t.Helper()
	id, key, _, err := uplink.Enrol(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	o.Dir, o.Identity, o.Key, o.Logger = n.Dir, id, key, slog.New(slog.DiscardHandler)
	u, err := uplink.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.Run(ctx)
	}()
	return u, func() { stop(); <-done }
}

func TestCertificatesAreRenewedInTimeAndKept(t *testing.T) {
	t.Parallel()
	_, c, n := setup(t)
	c.Life = 4 * time.Second // certificates count in whole seconds
	renewed := make(chan uplink.Identity, 16)
	_, stop := open(t, n, uplink.Options{
		OnPack:  func(context.Context, []byte) error { return nil },
		OnRenew: func(id uplink.Identity) { renewed <- id },
	})
	select {
	case id := <-renewed:
		if id.Generation != 2 {
			t.Fatalf("generation %d, want 2", id.Generation)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not renewed")
	}
	stop()
	kept, _, err := uplink.Load(t.Context(), n.Dir)
	if err != nil || kept.Generation < 2 {
		t.Fatalf("kept %d, %v", kept.Generation, err)
	}
}

func TestPacksComeAtOnceAndAfterAnOutage(t *testing.T) {
	t.Parallel()
	f, c, n := setup(t)
	packs := make(chan fleet.Digest, 16)
	_, stop := open(t, n, uplink.Options{OnPack: func(_ context.Context, pack []byte) error {
		packs <- fleet.DigestOf(pack)
		return nil
	}})
	defer stop()
	next := func(what string) {
		t.Helper()
		want := fleet.DigestOf(f.Pack())
		for {
			select {
			case got := <-packs:
				if got == want {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("no pack: %s", what)
			}
		}
	}
	next("the first")
	f.Direct(nil, nil, 0)
	next("the next")
	c.Down(true)
	f.Direct(nil, nil, 0)
	c.Down(false)
	next("after an outage")
}
