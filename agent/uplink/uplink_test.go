package uplink_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/uplink"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

func setup(t *testing.T) (*agenttest.Fleet, *agenttest.Coordinator, identity.Options) {
	t.Helper()
	f := agenttest.New(t)
	f.Direct(nil, nil, 0)
	c := f.Serve()
	tok, err := trust.ParseJoinToken(c.Token(nil))
	if err != nil {
		t.Fatal(err)
	}
	return f, c, identity.Options{Dir: filepath.Join(t.TempDir(), "identity"), Token: tok}
}

func enrol(ctx context.Context, at identity.Options) (*identity.Member, error) {
	m, _, err := uplink.Enrol(ctx, at, identity.Newcomer{ID: "dev-1", Kind: fleet.Device, Agent: "1.0.0"}, nil)
	return m, err
}

func TestEnrolmentWaitsForACoordinatorThatIsAway(t *testing.T) {
	t.Parallel()
	_, c, at := setup(t)
	c.Down(true)
	done := make(chan error, 1)
	go func() {
		_, err := enrol(t.Context(), at)
		done <- err
	}()
	time.AfterFunc(300*time.Millisecond, func() { c.Down(false) })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// open enrols and runs an uplink; the function returned ends it.
func open(t *testing.T, at identity.Options, o uplink.Options) (stop func()) {
	t.Helper()
	m, err := enrol(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	o.Member, o.Logger = m, slog.New(slog.DiscardHandler)
	u := uplink.New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.Run(ctx)
	}()
	return func() { cancel(); <-done }
}

func TestCertificatesAreRenewedInTimeAndKept(t *testing.T) {
	t.Parallel()
	_, c, at := setup(t)
	c.Life = 4 * time.Second // certificates count in whole seconds
	renewed := make(chan identity.Identity, 16)
	stop := open(t, at, uplink.Options{
		OnPack:  func(context.Context, []byte) error { return nil },
		OnRenew: func(id identity.Identity, _ bool) { renewed <- id },
	})
	select {
	case id := <-renewed:
		if id.Generation != 2 {
			t.Fatalf("generation %d, want 2", id.Generation)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("not renewed")
	}
	stop()
	kept, err := identity.Load(t.Context(), at)
	if err != nil || kept.Identity().Generation < 2 {
		t.Fatalf("kept %+v, %v", kept, err)
	}
}

func TestPacksComeAtOnceAndAfterAnOutage(t *testing.T) {
	t.Parallel()
	f, c, at := setup(t)
	packs := make(chan fleet.Digest, 16)
	stop := open(t, at, uplink.Options{OnPack: func(_ context.Context, pack []byte) error {
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
			case <-time.After(2 * time.Minute):
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
