package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
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

	coordinator *signer.Signer
}

// told has the coordinator say the time, signed for the device.
func (w *ward) told(at time.Time) bool {
	w.t.Helper()
	n := trust.NewNonce()
	signed, err := trust.SignTime(w.coordinator, n, at)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.hear(timeAnswer{n, signed})
}

func newWard(t *testing.T, f *trusttest.Fleet, wall func() time.Time, mem memory) *ward {
	w := &ward{t: t, written: map[string][]byte{}}
	if mem.Models == nil {
		mem = memory{Schema: memorySchema, Trust: f.State(), Models: map[fleet.ModelName]update.State{}}
	}
	w.loop = &loop{
		o: Options{Logger: slog.New(slog.DiscardHandler), Clock: wall, verify: trust.Verify}, facts: f.Member(), mem: mem,
		disk: &disk{write: w.write}, outlets: outlets{announce: func(gossip.Pack) {}, seek: make(chan struct{}, 1)},
		clock: newClock(wall, mem.Trust.Floor, mem.Told), timed: time.Now(), keeper: newTimekeeper(nil),
	}
	w.coordinator = f.Coordinator
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
					t.Errorf("the next pack is not believed: %s", w.belief.refused)
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
		if w.told(f.Now.Add(1000*time.Hour)) || w.clock.now().After(f.Now) {
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
			if got := w.told(f.Now.Add(c.after)); got != c.moved || !w.clock.now().Equal(f.Now.Add(c.now)) {
				t.Errorf("told %s: moved %v, now %s", c.after, got, w.clock.now())
			}
		}
		if !w.fresh() {
			t.Error("stale in time")
		}
		// A coordinator that is years ahead costs what is believed, also after a
		// start, but not the next pack.
		if !w.told(f.Now.Add(10*365*24*time.Hour)) || w.told(f.Now.Add(10*365*24*time.Hour)) || w.fresh() {
			t.Error("fresh although the coordinator says that it has expired")
		}
		w = newWard(t, f, w.o.Clock, w.mem)
		if w.hears(pack) {
			t.Error("fresh after a start")
		}
		f.Now = f.Now.Add(time.Second)
		if !w.hears(f.Direct()) {
			t.Errorf("the next pack is not believed: %s", w.belief.refused)
		}
		if w.passes(23 * time.Hour); !w.fresh() {
			t.Error("the next pack is not fresh for a day")
		}
	})
}

// Whoever ends TLS between a member and its coordinator can say any time, and is
// believed none: not one signed by another key, not an old answer, not a changed one.
func TestATimeIsBelievedBySignatureAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := trusttest.New(t, nil)
		w := newWard(t, f, standing(time.Unix(3600, 0)), memory{})
		if !w.hears(f.Direct()) {
			t.Fatal("not fresh")
		}
		late := f.Now.Add(6 * time.Hour)
		sign := func(key *signer.Signer, n trust.Nonce) trust.SignedTime {
			signed, err := trust.SignTime(key, n, late)
			if err != nil {
				t.Fatal(err)
			}
			return signed
		}
		n := trust.NewNonce()
		good := sign(f.Coordinator, n)
		changed, replayed := good, sign(f.Coordinator, trust.NewNonce())
		changed.Time = late.Add(time.Hour)
		renamed := replayed
		renamed.Nonce = n[:]
		for name, bad := range map[string]trust.SignedTime{
			"another key": sign(f.Timestamp, n), "changed": changed, "replayed": replayed, "replayed under the nonce": renamed, "empty": {},
		} {
			if w.hear(timeAnswer{n, bad}) || !w.clock.now().Equal(f.Now) {
				t.Errorf("%s: it is taken for %s", name, w.clock.now())
			}
		}
		if !w.hear(timeAnswer{n, good}) || !w.clock.now().Equal(late) {
			t.Errorf("the coordinator's own: it is taken for %s", w.clock.now())
		}
	})
}

// A device is untrusted from a refusal on until some source has a good pack, new
// or not; the same bad bytes again are no news then.
func TestDistrustEndsWithAGoodPack(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	w := newWard(t, f, func() time.Time { return f.Now }, memory{})
	first := f.Direct()
	good := f.Direct()
	expect := func(what string, want telemetry.Freshness, sought bool) {
		t.Helper()
		asked := false
		select {
		case <-w.seek:
			asked = true
		default:
		}
		if got := w.freshness(); got != want || asked != sought || (w.remedy() == "") != (want == telemetry.Fresh) || w.belief.distrust.rule.Code() == 0 && want == telemetry.Untrusted {
			t.Errorf("%s: %s, others asked %v, remedy %q, rule %q; want %s and %v", what, got, asked, w.remedy(), w.belief.distrust.rule, want, sought)
		}
	}
	expect("at the start", telemetry.NoPack, false)
	w.hears([]byte("noise"))
	expect("noise before any pack", telemetry.Untrusted, true)
	w.hears(good)
	expect("a good pack", telemetry.Fresh, false)
	w.hears([]byte("noise"))
	expect("the same noise", telemetry.Fresh, false)
	w.hears(first)
	expect("a replay", telemetry.Untrusted, true)
	w.hears(first)
	expect("the same replay", telemetry.Untrusted, false)
	if _, err := w.judge(t.Context(), good, "another"); err != nil || w.belief.refused == "" {
		t.Errorf("what was refused is not told any more: %v", err)
	}
	expect("the pack it has, from another source", telemetry.Fresh, false)
	w.hears(first)
	expect("the replay again", telemetry.Fresh, false)
	f.Now = f.Now.Add(25 * time.Hour)
	expect("a day later", telemetry.Stale, false)
	w.hears([]byte("more noise"))
	expect("noise then", telemetry.Untrusted, true)
	w.hears(good)
	expect("the newest there is", telemetry.Stale, false)
	w.hears(f.Direct())
	expect("the next", telemetry.Fresh, false)
}

// One timestamp vouches for one state of things: a pack in which a publisher's word
// gave way to another's is refused, and one that lacks only what expired is not.
func TestAPackOfTheSameTimestampMayNotLoseAPublisher(t *testing.T) {
	t.Parallel()
	other := trusttest.Key(t)
	f := trusttest.New(t, func(o *repository.InitOptions) {
		o.Teams = append(o.Teams, repository.Team{Name: "audio", Keys: trusttest.Keys(other)})
	})
	d, err := f.Repo.Draft(t.Context(), "audio")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Next(repository.Change{Floors: map[fleet.ModelName]uint64{"voice": 1}}, f.Now, other)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(s.Write); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Repo.Admit(t.Context(), "audio", f.Now); err != nil {
		t.Fatal(err)
	}
	w := newWard(t, f, func() time.Time { return f.Now }, memory{})
	good := f.Direct(f.Release("detector", "1.0.0"))
	w.hears(good)
	p, err := trust.DecodePack(good)
	if err != nil {
		t.Fatal(err)
	}
	p.Publishers = map[string]json.RawMessage{trust.RoleOf("audio"): s.Write.Body}
	bad, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	known := *w.trusted.Load()
	if w.hears(bad); !strings.Contains(w.belief.refused, "holds less") || w.trusted.Load().Teams[trusttest.Team].Version == 0 {
		t.Errorf("it is believed: %q", w.belief.refused)
	}
	if later := (trust.Trusted{At: known.Teams[trusttest.Team].Expires}); lost(known, later) {
		t.Error("a role that expired is missed")
	}
}

// The time is asked for at the start, each hour in which nobody said it, and soon,
// but not at once again, when something says that the clock is wrong.
func TestTheTimeIsAskedForRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var count atomic.Int64
		k := newTimekeeper(func(context.Context, trust.Nonce) (trust.SignedTime, error) {
			count.Add(1)
			return trust.SignedTime{}, errors.New("away")
		})
		go k.run(ctx)
		asked := func() int64 {
			synctest.Wait()
			return count.Load()
		}
		expect := func(what string, want int64) {
			t.Helper()
			if got := asked(); got != want {
				t.Errorf("%s: asked %d times, want %d", what, got, want)
			}
		}
		expect("at the start", 1)
		time.Sleep(4 * time.Hour)
		if n := asked(); n < 4 || n > 5 {
			t.Errorf("asked %d times in four hours", asked())
		}
		n := asked()
		for range 24 * 12 {
			k.agrees()
			time.Sleep(5 * time.Minute)
		}
		if asked() > n+1 {
			t.Errorf("asked %d times in a day in which the time was told", asked()-n)
		}
		n = asked()
		k.doubts()
		expect("in doubt", n+1)
		for range 60 {
			k.doubts()
			time.Sleep(time.Minute)
		}
		if got := asked(); got < n+5 || got > n+8 {
			t.Errorf("asked %d times in an hour of doubt", asked()-n)
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
