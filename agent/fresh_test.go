package agent

import (
	"bytes"
	"io/fs"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// ward is a device that hears packs and runs nothing, with whatever clock. It
// needs no files: what it writes is in memory. Tests run it in a bubble, whose
// time is the monotonic clock.
type ward struct {
	*loop
	t       *testing.T
	written map[string][]byte // by file name
	saves   int
	full    bool
}

func newWard(t *testing.T, f *trusttest.Fleet, wall func() time.Time, mem memory) *ward {
	w := &ward{t: t, written: map[string][]byte{}}
	if mem.Models == nil {
		mem = memory{Schema: memorySchema, Trust: f.State(), Models: map[fleet.ModelName]update.State{}}
	}
	w.loop = &loop{
		o: Options{Logger: slog.New(slog.DiscardHandler), wall: wall, verify: trust.Verify}, facts: f.Member(), mem: mem,
		disk: &disk{write: w.write}, announce: func(gossip.Pack) {},
		clock: newClock(wall, mem.Trust.Floor, mem.Told), timed: time.Now(),
	}
	return w
}

func (w *ward) write(path string, data []byte, _ fs.FileMode) error {
	w.saves++
	if w.full {
		return fault.Newf(fault.Exhausted, "write file", path, "no space left on device")
	}
	w.written[filepath.Base(path)] = bytes.Clone(data)
	return nil
}

// hears has the pack judged and says whether it may be acted on then.
func (w *ward) hears(pack []byte) bool {
	w.t.Helper()
	if _, err := w.judge(w.t.Context(), pack, "test"); err != nil {
		w.t.Fatal(err)
	}
	return w.fresh()
}

// passes lets time pass, with a tick each minute.
func (w *ward) passes(d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Minute)
		if err := w.ticks(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// standing is a clock that stands at a time from now on.
func standing(at time.Time) func() time.Time { return func() time.Time { return at } }

// running is a clock that shows a time now and goes on.
func running(at time.Time) func() time.Time {
	begun := time.Now()
	return func() time.Time { return at.Add(time.Since(begun)) }
}

func TestReplayingAPackDoesNotKeepItFresh(t *testing.T) {
	t.Parallel()
	long := time.Unix(3600, 0) // an hour after a boot without a battery
	for name, wall := range map[string]func() func() time.Time{
		"a clock that stands":        func() func() time.Time { return standing(long) },
		"a clock that is far behind": func() func() time.Time { return running(long) },
		"a clock that stands still in time": func() func() time.Time {
			return standing(trusttest.Start().Add(time.Minute))
		},
		"a clock that is right": func() func() time.Time { return running(trusttest.Start()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := trusttest.New(t, nil)
				pack := f.Direct()
				w := newWard(t, f, wall(), memory{})
				for range 23 {
					if !w.hears(pack) {
						t.Fatal("stale within a day")
					}
					w.passes(time.Hour)
				}
				w.passes(2 * time.Hour)
				if w.fresh() || w.hears(pack) || w.hears(pack) {
					t.Error("offered again and again it is fresh after 25 hours")
				}
				f.Now = f.Now.Add(26 * time.Hour)
				if !w.hears(f.Direct()) {
					t.Errorf("the next pack is not believed: %s", w.refused)
				}
			})
		})
	}
}

// An agent that is started again has not forgotten how late it was, but for the
// last hour.
func TestAgeOutlivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := trusttest.New(t, nil)
		pack := f.Direct()
		wall := standing(time.Unix(3600, 0))
		w := newWard(t, f, wall, memory{})
		w.hears(pack)
		for range 3 {
			w.passes(9 * time.Hour)
			if w.saves > 30 { // two files an hour
				t.Errorf("written %d times in 9 hours", w.saves)
			}
			w = newWard(t, f, wall, w.mem)
			w.hears(pack)
		}
		if w.fresh() {
			t.Errorf("fresh after 27 hours; the floor is %s", w.mem.Trust.Floor)
		}
	})
}

// A disk that takes nothing is not asked for the time more than once an hour.
func TestAFullDiskIsNotWrittenTheTimeAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := trusttest.New(t, nil)
		w := newWard(t, f, running(f.Now), memory{})
		w.hears(f.Direct())
		w.full, w.saves = true, 0
		w.passes(10 * time.Hour)
		if w.saves == 0 || w.saves > 10 {
			t.Errorf("written %d times in 10 hours", w.saves)
		}
	})
}

func TestACoordinatorsTimeOnlyMovesOnAndEndsOnlyWhatIsBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := trusttest.New(t, nil)
		w := newWard(t, f, standing(time.Unix(3600, 0)), memory{})
		if w.hear(f.Now.Add(1000*time.Hour)) || w.clock.now().After(f.Now) {
			t.Error("a time was taken over before anything was believed")
		}
		pack := f.Direct()
		if !w.hears(pack) {
			t.Fatal("not fresh")
		}
		for _, c := range []struct {
			after time.Duration // since the pack was signed
			moved bool
			now   time.Duration // what time it is taken for then
		}{
			{-time.Hour, false, 0},
			{4 * time.Minute, false, 0}, // an answer may take its time
			{6 * time.Hour, true, 6 * time.Hour},
			{5 * time.Hour, false, 6 * time.Hour},
		} {
			if got := w.hear(f.Now.Add(c.after)); got != c.moved || !w.clock.now().Equal(f.Now.Add(c.now)) {
				t.Errorf("told %s: moved %v, now %s", c.after, got, w.clock.now())
			}
		}
		if !w.fresh() {
			t.Error("stale in time")
		}
		// A coordinator that is years ahead costs what is believed, also after a
		// start, but not the next pack.
		if !w.hear(f.Now.Add(10*365*24*time.Hour)) || w.hear(f.Now.Add(10*365*24*time.Hour)) || w.fresh() {
			t.Error("fresh although the coordinator says that it has expired")
		}
		w = newWard(t, f, w.o.wall, w.mem)
		if w.hears(pack) {
			t.Error("fresh after a start")
		}
		f.Now = f.Now.Add(time.Second)
		if !w.hears(f.Direct()) {
			t.Errorf("the next pack is not believed: %s", w.refused)
		}
		if w.passes(23 * time.Hour); !w.fresh() {
			t.Error("the next pack is not fresh for a day")
		}
	})
}

// What stolen keys said of the time binds nobody once root has changed them: the
// floor is the one thing that then goes back.
func TestTheTimeOfStolenKeysIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := trusttest.New(t, nil)
		w := newWard(t, f, running(f.Now), memory{})
		old, now := f.State(), f.State()
		old.Floor, now.Timestamp = f.Now.Add(20*365*24*time.Hour), []byte("by other keys")
		w.clock.prove(old.Floor)
		if err := w.believe([]byte("pack"), old, now); err != nil {
			t.Fatal(err)
		}
		if now := w.clock.now(); now.After(f.Now.Add(time.Hour)) {
			t.Errorf("it is still taken for %s", now)
		}
	})
}
