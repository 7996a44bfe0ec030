package intake_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// fetches brings a member to a moment of a fetch of newer, in the rollout r1.
func (d *device) fetches(at time.Time, phase fleet.Phase, s telemetry.ModelState) []byte {
	s.Running, s.Target, s.Rollout, s.Arm, s.Phase = stable.Variants[0].Root, newer.Variants[0].Root, "r1", fleet.Exposed, phase
	must(0, d.rec.SetModel("detector", at, s))(d.t)
	return d.row(at)
}

func bucket(n uint64) telemetry.ModelState {
	return telemetry.ModelState{Fetched: telemetry.Fetched{Copy: 1000, Bucket: n}, Total: 11_000}
}

// What members fetched is counted once, in whatever order and how often rows come,
// whichever are lost, and whenever they restart.
func TestFetchedBytesAreCountedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, ds := newMembers(t, "a", "b")
		in := newIntake(t, m)
		var want telemetry.Delivery
		var sent [][]byte
		has, told := map[fleet.MemberID]telemetry.Delivery{}, map[fleet.MemberID]telemetry.Delivery{}
		at := start
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			for _, d := range ds {
				at = at.Add(time.Second)
				if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
					d.restart()
					has[d.id], told[d.id] = telemetry.Delivery{}, telemetry.Delivery{}
				}
				n := func(name string) uint64 { return rapid.Uint64Range(0, 1<<30).Draw(t, name) }
				all := has[d.id]
				all.Add(telemetry.Delivery{Fetched: telemetry.Fetched{Copy: n("copy"), Peer: n("peer"), Bucket: n("bucket")}, Wire: n("wire")})
				has[d.id] = all
				d.rec.SetMember(telemetry.MemberState{Delivery: all})
				if row := d.row(at); !rapid.Bool().Draw(t, "lost") {
					sent = append(sent, row)
					want.Add(all.Since(told[d.id]))
					told[d.id] = all
				}
			}
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "schedule"), 1))
		schedule := append(slices.Clone(sent), sent...)
		rng.Shuffle(len(schedule), func(i, j int) { schedule[i], schedule[j] = schedule[j], schedule[i] })
		for len(schedule) > 0 {
			n := min(1+rng.IntN(4), len(schedule))
			in.Add(schedule[:n], []fleet.MemberID{"", "a", "b"}[rng.IntN(3)], at)
			schedule = schedule[n:]
		}
		if got := in.Delivered(); got != want {
			t.Fatalf("counted %+v, want %+v", got, want)
		}
		// A coordinator that starts anew counts from there.
		must(0, in.Flush(context.Background()))(t)
		in = newIntake(t, m)
		in.Add(sent, "", at)
		if got := in.Delivered(); got != (telemetry.Delivery{}) {
			t.Fatalf("after a restart it counts %+v again", got)
		}
	})
}

// Rate and time left come from successive rows; of a member that began anew, or
// fell silent, they are not known.
func TestPaceComesFromRows(t *testing.T) {
	m, ds := newMembers(t, "a")
	in := newIntake(t, m)
	d := ds[0]
	at := start
	pace := func(after time.Duration, phase fleet.Phase, s telemetry.ModelState) (rate float64, ok bool) {
		t.Helper()
		at = at.Add(after)
		in.Add([][]byte{d.fetches(at.Add(time.Hour), phase, s)}, "", at) // its clock is wrong, and that is no matter
		return in.Pace(d.keyID, telemetry.ModelPrefix("detector"), at).Rate()
	}
	if rate, ok := pace(0, fleet.Downloading, bucket(0)); ok {
		t.Errorf("one row tells %g", rate)
	}
	if rate, ok := pace(10*time.Second, fleet.Downloading, bucket(1000)); !ok || rate != 100 {
		t.Errorf("%g %t, want 100", rate, ok)
	}
	if left, ok := in.Pace(d.keyID, telemetry.ModelPrefix("detector"), at).Left(9000); !ok || left != 90*time.Second {
		t.Errorf("left %s %t, want 90s", left, ok)
	}
	if _, ok := in.Pace(d.keyID, telemetry.ModelPrefix("detector"), at.Add(time.Hour)).Rate(); ok {
		t.Error("a silent member has a rate")
	}
	d.restart()
	if rate, ok := pace(10*time.Second, fleet.Downloading, bucket(500)); ok {
		t.Errorf("after a restart one row tells %g", rate)
	}
	if _, ok := pace(10*time.Second, fleet.Verified, bucket(10_000)); ok {
		t.Error("what downloads nothing has a rate")
	}
}

// A rollout tells who downloads and who cannot, and why; neither counts against
// the release.
func TestARolloutTellsWhoDownloadsAndWhoCannot(t *testing.T) {
	m, ds := newMembers(t, "fast", "slow", "cut-1", "cut-2", "full", "again", "done", "silent")
	in := newIntake(t, m)
	since := start.Add(-time.Minute)
	stuck := func(class fleet.FailureClass, code telemetry.FailureCode, since time.Time) telemetry.ModelState {
		return telemetry.ModelState{Failure: class, Code: code, Failing: since, Total: 11_000}
	}
	again := bucket(0)
	again.Failure, again.Code, again.Failing = fleet.TransportFailure, telemetry.CodeNetwork, since
	send := func(d *device, at time.Time, phase fleet.Phase, s telemetry.ModelState) {
		in.Add([][]byte{d.fetches(at, phase, s)}, "", at)
	}
	send(ds[7], start.Add(-time.Hour), fleet.Downloading, bucket(100))
	for i := range uint64(2) {
		at := start.Add(time.Duration(i) * 10 * time.Second)
		send(ds[0], at, fleet.Downloading, bucket(5000*i))
		send(ds[1], at, fleet.Downloading, bucket(1000*i))
		send(ds[2], at, fleet.Offered, stuck(fleet.TransportFailure, telemetry.CodeNetwork, since))
		send(ds[3], at, fleet.Downloading, stuck(fleet.TransportFailure, telemetry.CodeNetwork, start))
		send(ds[4], at, fleet.Failed, stuck(fleet.MemberFailure, telemetry.CodeDiskFull, start))
		again.Fetched.Bucket = 2000 * i // it could not, and now it goes
		send(ds[5], at, fleet.Downloading, again)
		send(ds[6], at, fleet.Soaking, bucket(10_000))
	}
	got, who := in.Fetching("r1", "detector", start.Add(10*time.Second))
	want := &api.FetchingInfo{
		Members: 3, Done: 3*1000 + 8000, Total: 33_000, From: api.Sources{Copy: 3000, Bucket: 8000}, Rate: 800, Left: fleet.Duration(90 * time.Second),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]api.StuckInfo{
		{Failure: fleet.TransportFailure, Code: "network", Members: 2, Since: since},
		{Failure: fleet.MemberFailure, Code: "disk-full", Members: 1, Since: start},
	}, who); d != "" {
		t.Error(d)
	}
	if none, who := in.Fetching("r2", "detector", start); none != nil || who != nil {
		t.Errorf("another rollout tells %+v %+v", none, who)
	}
}
