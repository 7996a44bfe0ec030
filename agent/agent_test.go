package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// patience is how long anything is waited for. It is long because the machine may be
// loaded; a test that works never waits for it.
const patience = 2 * time.Minute

// device is one state folder and the agent that runs on it now.
type device struct {
	t     *testing.T
	fleet *agenttest.Fleet
	coord *agenttest.Coordinator
	o     agent.Options
	cl    *local.Client

	stop context.CancelFunc
	done chan error
	info chan<- agent.Info // told of each start; nil: nobody
}

// selfTest fails releases whose file says "bad".
const selfTest = `grep -q bad "$1"/weights.bin && { echo "accuracy 0.12 below 0.90"; exit 1; } || exit 0`

func newDevice(t *testing.T) *device {
	t.Helper()
	f := agenttest.New(t)
	return addDevice(t, f, f.Serve(), "dev-1")
}

// addDevice adds a device to a fleet.
func addDevice(t *testing.T, f *agenttest.Fleet, c *agenttest.Coordinator, id fleet.MemberID) *device {
	t.Helper()
	d := &device{t: t, fleet: f, coord: c}
	state := t.TempDir()
	socket, err := os.MkdirTemp("", "mf") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	d.o = agent.Options{
		State: state, ID: id, Socket: filepath.Join(socket, "a.sock"), Source: f.Bucket,
		Report: 100 * time.Millisecond, Window: 100 * time.Millisecond, Soak: 100 * time.Millisecond, Version: "1.0.0",
		Probe: probe.Options{Command: selfTest}, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	d.cl = local.NewClient(local.ClientOptions{Socket: d.o.Socket, App: "app"})
	t.Cleanup(d.kill)
	return d
}

// testWriter shows the agent's log with the test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if testing.Verbose() {
		io.WriteString(os.Stderr, w.t.Name()+": "+string(p))
	}
	return len(p), nil
}

// run starts the agent and waits until it serves.
func (d *device) run() {
	d.t.Helper()
	ctx, stop := context.WithCancel(d.t.Context())
	ready := make(chan agent.Info, 1)
	o := d.o
	o.Token = d.coord.Token(nil)
	o.Ready = func(i agent.Info) { ready <- i }
	d.stop, d.done = stop, make(chan error, 1)
	go func(done chan<- error) { done <- agent.Run(ctx, o) }(d.done)
	select {
	case i := <-ready:
		if d.info != nil {
			d.info <- i
		}
	case err := <-d.done:
		stop()
		d.stop = nil // it has ended
		d.t.Fatalf("agent did not start: %v", err)
	case <-time.After(patience):
		d.t.Fatal("agent did not start in time")
	}
}

func (d *device) kill() {
	if d.stop == nil {
		return
	}
	d.stop()
	if err := <-d.done; err != nil {
		d.t.Errorf("agent ended with: %v", err)
	}
	d.stop = nil
}

// until waits for the model to be as want says.
func (d *device) until(what string, want func(local.Model) bool) local.Model {
	d.t.Helper()
	var last local.Model
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	ok := errors.New("as wanted")
	for ctx.Err() == nil {
		err := d.cl.Watch(ctx, agenttest.Model, "", func(m local.Model) error {
			if last = m; want(m) {
				return ok
			}
			return nil
		})
		if errors.Is(err, ok) {
			return last
		}
	}
	d.t.Fatalf("never came to: %s; last %+v", what, last)
	return last
}

func (d *device) serves(r fleet.Release, p fleet.Phase) local.Model {
	d.t.Helper()
	return d.until(p.String()+" with "+r.Ref(), func(m local.Model) bool {
		return m.Phase == p && m.Serving != nil && m.Serving.Ref == r.Ref()
	})
}

// content is what an application that uses only the link reads.
func (d *device) content() string {
	d.t.Helper()
	data, err := os.ReadFile(filepath.Join(d.o.State, "models", string(agenttest.Model), "current", "weights.bin"))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(data)
}

// row waits for a row that says so of the model.
func (d *device) row(what string, want func(telemetry.Row, telemetry.Model) bool) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		for _, r := range d.coord.Rows() {
			if m, ok := r.Model(telemetry.ModelPrefix(agenttest.Model)); ok && want(r, m) {
				return
			}
		}
		<-time.After(20 * time.Millisecond)
	}
	d.t.Fatalf("no row said: %s", what)
}

func weights(s string) map[string]string {
	return map[string]string{"weights.bin": s, "card.md": "# " + s}
}

func TestAReleaseIsBroughtInTestedServedAndHealthy(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	if got := d.content(); got != "one" {
		t.Fatalf("current holds %q", got)
	}
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, &v2, 200*time.Millisecond)
	m := d.serves(v2, fleet.Healthy)
	if m.Arm != "exposed" || m.Previous == nil || m.Previous.Ref != v1.Ref() {
		t.Fatalf("after the rollout: %+v", m)
	}
	d.row("healthy with 2.0.0", func(r telemetry.Row, m telemetry.Model) bool {
		return m.Phase == fleet.Healthy && m.Running == telemetry.ReleasePrefix(v2.Variants[0].Root) && r.Freshness == telemetry.Fresh
	})
	// The rollout is taken back: the copy on disk is switched to, with the
	// bucket gone.
	if err := os.Rename(filepath.Join(d.fleet.Bucket, "files"), filepath.Join(d.fleet.Bucket, "gone")); err != nil {
		t.Fatal(err)
	}
	d.fleet.Direct(&v1, nil, 0)
	d.serves(v1, fleet.RolledBack)
	if got := d.content(); got != "one" {
		t.Fatalf("after going back current holds %q", got)
	}
}

func TestABadReleaseIsQuarantinedAndTheOldOneServes(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("bad"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(&v1, &v2, time.Second)
	m := d.serves(v1, fleet.Quarantined)
	if len(m.Quarantined) != 1 || m.Quarantined[0].Code != "self-test" || !strings.Contains(m.Quarantined[0].Text, "accuracy 0.12 below 0.90") {
		t.Fatalf("quarantine says %+v", m.Quarantined)
	}
	d.row("release failure", func(_ telemetry.Row, m telemetry.Model) bool {
		return m.Failure == fleet.ReleaseFailure && m.Code == telemetry.CodeSelfTest && m.Target == telemetry.ReleasePrefix(v2.Variants[0].Root) &&
			m.Running == telemetry.ReleasePrefix(v1.Variants[0].Root)
	})
	// It is remembered across a restart.
	d.kill()
	d.run()
	d.serves(v1, fleet.Quarantined)
	if got := d.content(); got != "one" {
		t.Fatalf("current holds %q", got)
	}
	// Until an operator lifts it, with the device's self-test put right.
	d.kill()
	d.o.Probe.Command = "true"
	d.run()
	d.serves(v1, fleet.Quarantined)
	if err := d.cl.Lift(t.Context(), agenttest.Model, v2.Variants[0].Root); err != nil {
		t.Fatal(err)
	}
	d.serves(v2, fleet.Healthy)
	if err := d.cl.Lift(t.Context(), agenttest.Model, v2.Variants[0].Root); !fault.Is(err, fault.NotFound) {
		t.Fatalf("lifted twice: %v", err)
	}
}

func TestApplicationsThatCrashTakeAReleaseBack(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(&v1, &v2, time.Hour)
	d.serves(v2, fleet.Soaking)
	for range 3 { // loads without unloading are crashes; the second loss is one too many
		if _, err := d.cl.Load(t.Context(), agenttest.Model); err != nil {
			t.Fatal(err)
		}
	}
	m := d.serves(v1, fleet.Quarantined)
	if m.Quarantined[0].Code != "crash-loop" {
		t.Fatalf("quarantine says %+v", m.Quarantined)
	}
	d.row("crash loop", func(_ telemetry.Row, m telemetry.Model) bool { return m.Code == telemetry.CodeCrashLoop })
}

func TestFailedUsesInARowTakeAReleaseBack(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(&v1, &v2, time.Hour)
	d.serves(v2, fleet.Soaking)
	l, err := d.cl.Load(t.Context(), agenttest.Model)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := d.cl.Observe(t.Context(), l, local.Observation{Micros: 1500, Error: true}); err != nil {
			t.Fatal(err)
		}
	}
	m := d.serves(v1, fleet.Quarantined)
	if m.Quarantined[0].Code != "unhealthy" {
		t.Fatalf("quarantine says %+v", m.Quarantined)
	}
	if _, err := os.Stat(filepath.Join(l.Path, "weights.bin")); err != nil {
		t.Fatalf("an application's files were taken from under it: %v", err)
	}
	d.row("five errors", func(_ telemetry.Row, m telemetry.Model) bool {
		for _, s := range m.Series {
			if s.Errors == 5 && s.Release == telemetry.ReleasePrefix(v2.Variants[0].Root) {
				return true
			}
		}
		return false
	})
}

func TestTamperedBytesAreRefusedAndTheOldOneServes(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	undo := d.fleet.Tamper()
	d.fleet.Direct(&v1, &v2, 100*time.Millisecond)
	m := d.until("a refusal", func(m local.Model) bool { return m.FailureCode == "corrupt" })
	if m.Failure != fleet.TransportFailure || m.Serving.Ref != v1.Ref() || len(m.Quarantined) > 0 {
		t.Fatalf("after tampering: %+v", m)
	}
	undo()
	d.serves(v2, fleet.Healthy) // a lie costs time only
}

func TestPacksThatDoNotVerifyChangeNothing(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	old := d.fleet.Pack()
	seq := uint64(1)
	for _, bad := range []struct {
		name, says string
		pack       []byte
	}{{"replayed", "rule timestamp", old}, {"cut short", "rule format", old[:len(old)/2]}, {"noise", "rule format", []byte("no pack")}} {
		seq++
		d.fleet.Direct(&v1, nil, 0)
		d.listing("the next directive", func(l local.Listing) bool {
			return l.Directive == seq && l.Refused == "" && l.Freshness == "fresh" && l.Remedy == ""
		})
		d.fleet.Offer(bad.pack)
		l := d.listing(bad.name, func(l local.Listing) bool { return l.Refused != "" })
		if l.Directive != seq || l.Freshness == "stale" || l.Models[0].Phase != fleet.Healthy || !strings.Contains(l.Refused, bad.says) {
			t.Errorf("%s: refused %q, %+v", bad.name, l.Refused, l)
		}
	}
}

func (d *device) listing(what string, want func(local.Listing) bool) local.Listing {
	d.t.Helper()
	var last local.Listing
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		l, err := d.cl.List(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		if last = l; want(l) {
			return l
		}
	}
	d.t.Fatalf("never came to: %s; last %+v", what, last)
	return last
}

func TestACoordinatorThatIsAwayStopsNothing(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.coord.Down(true)
	d.kill()
	d.run() // from what is on the disk
	m := d.serves(v1, fleet.Healthy)
	if l, err := d.cl.Load(t.Context(), agenttest.Model); err != nil || l.Path != m.Serving.Path {
		t.Fatalf("load while the coordinator is away: %+v %v", l, err)
	}
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, &v2, 50*time.Millisecond)
	d.coord.Down(false)
	d.serves(v2, fleet.Healthy)
}

func TestSecondAgentOnOneStateIsAConflict(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	o := d.o
	o.Socket += "2"
	if err := agent.Run(t.Context(), o); !fault.Is(err, fault.Conflict) || fault.Hint(err) == "" {
		t.Fatalf("second agent: %v", err)
	}
}

func TestDamagedStateGoesOnFromTheSlots(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.kill()
	for _, name := range []string{"state.json", "state.json.copy"} {
		if err := os.WriteFile(filepath.Join(d.o.State, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.run()
	if got := d.content(); got != "one" {
		t.Fatalf("current holds %q", got)
	}
	d.until("serving 1.0.0", func(m local.Model) bool { return m.Serving != nil && m.Serving.Ref == v1.Ref() })
	if _, err := os.Stat(filepath.Join(d.o.State, "state.json.damaged")); err != nil {
		t.Fatal(err)
	}
}

// A block of the disk that goes bad under state.json costs neither what the
// device refused nor what it knows of the newest directive.
func TestADamagedStateForgetsNothing(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("bad"))
	d.fleet.Direct(&v1, nil, 0)
	old := d.fleet.Pack()
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(&v1, &v2, time.Second)
	was := d.serves(v1, fleet.Quarantined)
	path := filepath.Join(d.o.State, "state.json")
	for what, damage := range map[string]func([]byte) []byte{
		"torn":    func(b []byte) []byte { return b[:len(b)/2] },
		"garbage": func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) },
		"empty":   func([]byte) []byte { return nil },
		"one bit": func(b []byte) []byte { b[bytes.Index(b, []byte(`"sequence":2`))+11] ^= 3; return b }, // 1
	} {
		d.kill()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(b), 0o600); err != nil {
			t.Fatal(err)
		}
		// Without the newest pack, only the state knows how new it was.
		if err := os.WriteFile(filepath.Join(d.o.State, "pack.zst"), old, 0o600); err != nil {
			t.Fatal(err)
		}
		d.fleet.Offer(old)
		d.run()
		m := d.serves(v1, fleet.Quarantined)
		if len(m.Quarantined) != 1 || m.Quarantined[0].Root != was.Quarantined[0].Root || !m.Quarantined[0].At.Equal(was.Quarantined[0].At) {
			t.Errorf("%s: quarantines are %+v, were %+v", what, m.Quarantined, was.Quarantined)
		}
		l := d.listing("the old pack refused", func(l local.Listing) bool { return strings.Contains(l.Refused, "rule timestamp") })
		if l.Directive != 2 {
			t.Errorf("%s: directive %d, was 2", what, l.Directive)
		}
		if err := os.Remove(path + ".damaged"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWhatOnlyARolloutBroughtGoesWithIt(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(nil, &v1, 50*time.Millisecond)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(nil, nil, 0)
	d.until("serving nothing", func(m local.Model) bool { return m.Phase == fleet.RolledBack && m.Serving == nil })
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v2, nil, 0)
	d.serves(v2, fleet.Healthy)
	d.fleet.Direct(nil, nil, 0) // a stable release stays, whatever an empty directive says
	d.listing("the empty directive", func(l local.Listing) bool { return l.Directive == 4 })
	d.serves(v2, fleet.Healthy)
}

func TestTheCellBringsPacksAndRowsWhereTheLineIsCut(t *testing.T) {
	t.Parallel()
	d1 := newDevice(t)
	d2 := addDevice(t, d1.fleet, d1.coord, "dev-2")
	v1 := d1.fleet.Publish("1.0.0", weights("one"))
	d1.fleet.Direct(&v1, nil, 0)
	for _, d := range []*device{d1, d2} {
		d.o.Gossip = "127.0.0.1:0"
		d.run()
		d.serves(v1, fleet.Healthy)
	}
	d1.coord.Cut("dev-2")
	v2 := d1.fleet.Publish("2.0.0", weights("two"))
	d1.fleet.Direct(&v2, nil, 0)
	d1.serves(v2, fleet.Healthy)
	d2.serves(v2, fleet.Healthy)
	rows := map[telemetry.KeyID]bool{}
	d2.row("two members healthy with 2.0.0", func(r telemetry.Row, m telemetry.Model) bool {
		if m.Phase == fleet.Healthy && m.Running == telemetry.ReleasePrefix(v2.Variants[0].Root) {
			rows[r.Key] = true
		}
		return len(rows) == 2
	})
}
