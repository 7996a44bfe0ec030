package update_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Scripts tell a device's day: each command is one event, the answer is where
// the model stands and what is to be done.
func TestScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		d := newDevice()
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			return command(t, d, td)
		})
	})
}

func command(t *testing.T, d *device, td *datadriven.TestData) string {
	var ev update.Event
	switch td.Cmd {
	case "assign":
		ev = update.Event{Kind: update.Assigned, Terms: update.Terms{Soak: 5 * time.Minute, Reason: "the directive says so"}}
		ev.Offer = offer(number(t, td, "v"))
		if has(td, "exposed") {
			ev.Terms.Arm = fleet.Exposed
		}
		if has(td, "control") {
			ev.Terms.Arm = fleet.Control
		}
		if has(td, "stable") {
			ev.Stable = offer(number(t, td, "stable"))
		}
		if has(td, "rollout") {
			td.ScanArgs(t, "rollout", &ev.Terms.Rollout)
		}
		ev.Terms.Lifts = has(td, "retry")
		if has(td, "failed") { // (version, rollout)
			var v int
			var by fleet.RolloutID
			td.ScanArgs(t, "failed", &v, &by)
			ev.Failed = []update.GateFailed{{Root: offer(v).Root, Rollout: by, Text: "errors"}}
		}
		if td.HasArg("window") {
			var from, to string
			td.ScanArgs(t, "window", &from, &to)
			var w fleet.Window
			if err := w.From.UnmarshalText([]byte(from)); err != nil {
				t.Fatal(err)
			}
			if err := w.To.UnmarshalText([]byte(to)); err != nil {
				t.Fatal(err)
			}
			ev.Terms.Windows = []fleet.Window{w}
		}
		if td.HasArg("soak") {
			var soak string
			td.ScanArgs(t, "soak", &soak)
			var err error
			if ev.Terms.Soak, err = time.ParseDuration(soak); err != nil {
				t.Fatal(err)
			}
		}
		if td.HasArg("restarts") {
			td.ScanArgs(t, "restarts", &ev.Terms.Health.Restarts)
		}
	case "ok":
		return d.describe(d.step(d.carry(d.take(t))))
	case "lost": // the effect happens, the agent is killed before it hears so
		d.carry(d.take(t))
		return d.describe(nil)
	case "fail":
		class := fleet.ReleaseFailure
		var name string
		td.ScanArgs(t, "class", &name)
		if err := class.UnmarshalText([]byte(name)); err != nil {
			t.Fatal(err)
		}
		return d.describe(d.step(fail(d.take(t), class)))
	case "after":
		by, err := time.ParseDuration(td.CmdArgs[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		d.now = d.now.Add(by)
		ev = update.Event{Kind: update.Tick, Current: d.current, Seen: true}
	case "sick":
		ev = update.Event{Kind: update.Sick, Root: d.st.Running.Root, Failure: update.Failure{Code: "crash-loop", Text: "applications lost it 3 times"}}
	case "revoke":
		ev = update.Event{Kind: update.Revoked, Bundle: offer(number(t, td, "v")).Bundle, Keep: has(td, "keep"), Failure: update.Failure{Text: "its publisher took it back"}}
	case "damage":
		ev = update.Event{Kind: update.Damaged, Bundle: offer(number(t, td, "v")).Bundle}
	case "lift":
		ev = update.Event{Kind: update.Lifted, Root: offer(number(t, td, "v")).Root}
	case "restart":
		if has(td, "reboot") {
			d.boot++
		}
		d.flight = nil
		ev = update.Event{Kind: update.Restarted, Current: d.current, Seen: true, Boot: fmt.Sprint(d.boot)}
	default:
		t.Fatalf("no command %q", td.Cmd)
	}
	return d.describe(d.step(ev))
}

func has(td *datadriven.TestData, key string) bool { return td.HasArg(key) }

func number(t *testing.T, td *datadriven.TestData, key string) (n int) {
	td.ScanArgs(t, key, &n)
	return n
}

func (d *device) take(t *testing.T) update.Effect {
	if len(d.flight) == 0 {
		t.Fatal("nothing is in flight")
	}
	e := d.flight[0]
	d.flight = d.flight[1:]
	return e
}

func (d *device) describe(effects []update.Effect) string {
	var b strings.Builder
	name := func(h update.Held) string {
		switch {
		case h.IsZero():
			return "-"
		case h.Good:
			return h.Ref + marks(h)
		}
		return h.Ref + "?" + marks(h)
	}
	fmt.Fprintf(&b, "%s: %s\n", d.st.Phase, d.st.Why)
	fmt.Fprintf(&b, "running %s, fallback %s", name(d.st.Running), name(d.st.Fallback))
	for _, q := range d.st.Quarantined {
		fmt.Fprintf(&b, ", refuses %s (%s)", q.Ref, q.Code)
	}
	if f := d.st.Failure; f.Class != fleet.NoFailure {
		fmt.Fprintf(&b, ", failure %s/%s", f.Class, f.Code)
	}
	b.WriteString("\n")
	for _, e := range effects {
		if e.Kind == update.Keep {
			fmt.Fprintf(&b, "> keep %d\n", len(e.Bundles))
			continue
		}
		fmt.Fprintf(&b, "> %s\n", e)
	}
	return b.String()
}

// marks are what became of a release besides.
func marks(h update.Held) string {
	switch {
	case h.Kept:
		return "(kept)"
	case h.Damaged:
		return "!"
	case !h.Mended.IsZero():
		return "*"
	}
	return ""
}

// The picture in the docs is the table that Step obeys.
func TestPictureIsCurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "docs", "states", "device.md")
	want := "# One model on one device\n\n" +
		"Drawn from the edges table of `agent/update` by its tests; do not edit by hand\n" +
		"(`UPDATE=1 go test ./agent/update`). What each phase means is in `pkg/fleet/phase.go`.\n\n" +
		"```mermaid\n" + update.Picture() + "```\n\n" + update.Deadlines()
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Fatalf("%s is not what the edges table says; run UPDATE=1 go test ./agent/update", path)
	}
}
