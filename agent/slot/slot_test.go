package slot_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const m fleet.ModelName = "detector"

// disk is a state folder with releases a, b, c... in it.
type disk struct{ dir string }

func newDisk(t *testing.T, releases ...string) disk {
	t.Helper()
	d := disk{t.TempDir()}
	for _, r := range releases {
		if err := os.MkdirAll(d.release(r), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.release(r), "model.bin"), bytes.Repeat([]byte(r), 8192), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d disk) release(name string) string { return filepath.Join(d.dir, "store", "releases", name) }

func (d disk) open(t *testing.T, failpoint func(string) error) *slot.Slots {
	t.Helper()
	s, err := slot.Open(slot.Options{Dir: filepath.Join(d.dir, "models"), Failpoint: failpoint})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names are the releases that are current and previous, as "current previous".
func (d disk) names(t *testing.T, s *slot.Slots) string {
	t.Helper()
	c, err := s.Current(m)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Previous(m)
	if err != nil {
		t.Fatal(err)
	}
	name := func(path string) string {
		if path == "" {
			return "-"
		}
		return filepath.Base(path)
	}
	return name(c) + " " + name(p)
}

// serves is the first byte an application reads through the link, or "-".
func (d disk) serves(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "models", string(m), "current", "model.bin"))
	if errors.Is(err, os.ErrNotExist) {
		return "-"
	}
	if err != nil || len(bytes.Trim(b, string(b[:1]))) != 0 {
		t.Fatalf("an application reads %d mixed bytes: %v", len(b), err)
	}
	return string(b[:1])
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSwitchKeepsThePrevious(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "a", "b", "c")
	s := d.open(t, nil)
	for _, c := range []struct{ to, want string }{
		{"a", "a -"}, {"a", "a -"}, {"b", "b a"}, {"b", "b a"}, {"c", "c b"}, {"b", "b c"},
	} {
		ok(t, s.Switch(m, d.release(c.to)))
		if got := d.names(t, s); got != c.want || d.serves(t) != c.to {
			t.Fatalf("after switching to %s: %s, serves %s, want %s", c.to, got, d.serves(t), c.want)
		}
	}
	ok(t, s.Remove(m))
	ok(t, s.Remove(m))
	if got := d.names(t, s); got != "- -" {
		t.Fatalf("after removing: %s", got)
	}
	if err := s.Switch(m, d.release("nothing")); !fault.Is(err, fault.NotFound) {
		t.Fatalf("switching to nothing: %v", err)
	}
}

// A crash before any step of a switch leaves the old release or the new one
// serving, whole, with a previous that is right; the switch done again is done.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name              string
		history           []string
		to, before, after string
	}{
		{"first", nil, "a", "- -", "a -"},
		{"second", []string{"a"}, "b", "a -", "b a"},
		{"third", []string{"a", "b"}, "c", "b a", "c b"},
		{"back and forth", []string{"a", "b"}, "a", "b a", "a b"},
	} {
		prepare := func(rel func(string) string) func(*slot.Slots) error {
			return func(s *slot.Slots) error {
				for _, h := range c.history {
					if err := s.Switch(m, rel(h)); err != nil {
						return err
					}
				}
				return nil
			}
		}
		probe := newDisk(t, "a", "b", "c")
		var seen []string
		ok(t, prepare(probe.release)(probe.open(t, nil)))
		ok(t, probe.open(t, func(step string) error { seen = append(seen, step); return nil }).Switch(m, probe.release(c.to)))
		if len(seen) < 3 {
			t.Fatalf("%s: only steps %v", c.name, seen)
		}
		for i, step := range seen {
			t.Run(fmt.Sprintf("%s/%d %s", c.name, i, step), func(t *testing.T) {
				t.Parallel()
				d := newDisk(t, "a", "b", "c")
				ok(t, prepare(d.release)(d.open(t, nil)))
				n, cut := 0, errors.New("power cut")
				err := d.open(t, func(string) error {
					if n++; n > i {
						return cut
					}
					return nil
				}).Switch(m, d.release(c.to))
				if !errors.Is(err, cut) {
					t.Fatalf("error is %v", err)
				}
				s := d.open(t, nil) // the machine is back
				got := d.names(t, s)
				if got != c.before && got != c.after {
					t.Fatalf("after the crash: %s, want %s or %s", got, c.before, c.after)
				}
				if want := got[:1]; d.serves(t) != want {
					t.Fatalf("serves %s, current is %s", d.serves(t), want)
				}
				ok(t, s.Switch(m, d.release(c.to)))
				if got := d.names(t, s); got != c.after {
					t.Fatalf("done again: %s, want %s", got, c.after)
				}
			})
		}
	}
}

// Random switches with crashes between any two steps: current is always what it
// was or what was asked for, and previous is what was current before it.
func TestSwitchesAndCrashesInAnyOrder(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "a", "b", "c")
	rapid.Check(t, func(rt *rapid.T) {
		ok(t, d.open(t, nil).Remove(m))
		history := []string{"-", "-"} // previous, current
		for range rapid.IntRange(1, 8).Draw(rt, "switches") {
			to := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "to")
			at := rapid.IntRange(0, 12).Draw(rt, "crash before step")
			n := 0
			_ = d.open(t, func(string) error {
				if n++; n > at {
					return errors.New("crash")
				}
				return nil
			}).Switch(m, d.release(to))
			got := d.names(t, d.open(t, nil))
			was := history[1] + " " + history[0]
			now := to + " " + history[1]
			if to == history[1] {
				now = was
			}
			switch got {
			case now:
				if to != history[1] {
					history = []string{history[1], to}
				}
			case was:
			default:
				rt.Fatalf("%s after switching %s to %s with a crash before step %d", got, was, to, at)
			}
		}
	})
}

// A process that has the old model mapped keeps its bytes, after the switch and
// after the old release was deleted.
func TestAMappedOldFileStaysValid(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "a", "b")
	s := d.open(t, nil)
	ok(t, s.Switch(m, d.release("a")))
	f, err := os.Open(filepath.Join(s.Path(m), "model.bin"))
	ok(t, err)
	mem, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	ok(t, err)
	defer func() { ok(t, unix.Munmap(mem)) }()
	ok(t, f.Close())
	ok(t, s.Switch(m, d.release("b")))
	ok(t, os.RemoveAll(d.release("a")))
	if !bytes.Equal(mem, bytes.Repeat([]byte("a"), 8192)) {
		t.Fatal("the mapped bytes changed")
	}
	if d.serves(t) != "b" {
		t.Fatal("the new release is not served")
	}
}

// The state folder may be mounted at another place, as in a container.
func TestLinksSurviveAMovedStateFolder(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "a")
	ok(t, d.open(t, nil).Switch(m, d.release("a")))
	moved := disk{filepath.Join(t.TempDir(), "elsewhere")}
	ok(t, os.Rename(d.dir, moved.dir))
	if moved.serves(t) != "a" {
		t.Fatal("the link does not lead to the release")
	}
}

func TestModelsAreListed(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "a")
	s := d.open(t, nil)
	ok(t, s.Switch("zebra", d.release("a")))
	ok(t, s.Switch("ant", d.release("a")))
	got, err := s.Models()
	ok(t, err)
	if !slices.Equal(got, []fleet.ModelName{"ant", "zebra"}) {
		t.Fatalf("models are %v", got)
	}
	if _, err := slot.Open(slot.Options{Dir: "relative"}); !fault.Is(err, fault.Invalid) {
		t.Fatalf("error is %v", err)
	}
}

// What is not kept any more has no link that leads nowhere.
func TestForget(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "a", "b")
	s := d.open(t, nil)
	forget := func(keeps ...string) {
		t.Helper()
		err := s.Forget(m, func(release string) bool { return slices.Contains(keeps, filepath.Base(release)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	forget() // there is nothing
	for _, r := range []string{"a", "b"} {
		if err := s.Switch(m, d.release(r)); err != nil {
			t.Fatal(err)
		}
	}
	forget("a", "b")
	if got := d.names(t, s); got != "b a" {
		t.Fatalf("slots are %q", got)
	}
	forget("b")
	if got := d.names(t, s); got != "b -" {
		t.Fatalf("slots are %q", got)
	}
}
