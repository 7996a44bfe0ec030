package share_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/agent/share"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// patient members find nobody dead who is only slow: the machine may be busy.
func patient(o *share.Options) {
	o.Timing = share.Timing{Dial: 20 * time.Second, Stall: 30 * time.Second, Queue: 30 * time.Second}
}

// Ten members that want a release at once take it out of the bucket once.
func TestASiteTakesOneCopy(t *testing.T) {
	t.Parallel()
	w := found(t, 64)
	w.settle(10, patient)
	installAll(t, w.houses, nil)
	if n := w.bucket.copies(w.want); n > 1.1 {
		t.Errorf("%.2f copies left the bucket", n)
	}
}

// Who installs nothing serves all the same, from one read of the bucket, and
// takes what it fetched for others from where it keeps it when its own turn comes.
func TestAnOwnerServesWhatItDoesNotInstall(t *testing.T) {
	t.Parallel()
	w := found(t, 64)
	w.settle(4, patient)
	late := w.houses[3]
	installAll(t, w.houses[:3], nil)
	if n := w.bucket.copies(w.want); n > 1.1 {
		t.Errorf("%.2f copies left the bucket", n)
	}
	if s := late.Stats(); s.Pulled == 0 || s.Served < 2*s.Pulled {
		t.Errorf("the fourth did %+v", s)
	}
	before := w.bucket.bytes.Load()
	installAll(t, w.houses[3:], nil)
	if n := w.bucket.bytes.Load() - before; n != 0 {
		t.Errorf("for the fourth, %d bytes left the bucket again", n)
	}
}

func TestMembersThatDieCostLittle(t *testing.T) {
	t.Parallel()
	w := found(t, 80)
	w.settle(10, func(o *share.Options) {
		patient(o)
		o.Timing.Rest = time.Hour
	})
	var once sync.Once
	installAll(t, w.houses[:8], func(p delivery.Progress) {
		if p.Done > p.Total/2 {
			once.Do(func() {
				w.houses[8].stop()
				w.houses[9].stop()
			})
		}
	})
	// What the two owned is fetched once more, where it was not passed round yet.
	if n := w.bucket.copies(w.want); n > 1.5 {
		t.Errorf("%.2f copies left the bucket", n)
	}
}

// However differently members see the site, all get the right bytes, and what
// that costs is duplicates.
func TestViewsThatDifferCostOnlyDuplicates(t *testing.T) {
	t.Parallel()
	w := found(t, 20)
	w.settle(6, patient)
	rnd := rand.New(rand.NewPCG(7, 7))
	for _, h := range w.houses {
		var view []gossip.Member
		for _, other := range w.houses {
			if other == h || rnd.IntN(3) > 0 {
				view = append(view, other.member())
			}
		}
		h.See(view)
	}
	installAll(t, w.houses, nil)
	if n := w.bucket.copies(w.want); n > float64(len(w.houses)) {
		t.Errorf("%.2f copies left the bucket", n)
	}
}

// owner is the member that all take for a frame's owner.
func (w *town) owner(i int) *house {
	w.t.Helper()
	for _, h := range w.houses {
		if h.Owns(w.frames[i]) {
			return h
		}
	}
	w.t.Fatal("nobody owns the frame")
	return nil
}

// all but one.
func (w *town) others(than ...*house) []*house {
	return slices.DeleteFunc(slices.Clone(w.houses), func(h *house) bool { return slices.Contains(than, h) })
}

// One fetch serves all who wait for it, and nobody takes its owner for dead as
// long as that goes on.
func TestAllWaitForOneFetch(t *testing.T) {
	t.Parallel()
	w := found(t, 3)
	w.settle(9, func(o *share.Options) {
		patient(o)
		o.Timing.Pulse, o.Timing.Stall = 20*time.Millisecond, 2*time.Second
	})
	gate := make(chan struct{})
	w.bucket.gate.Store(&gate)
	owner := w.owner(0)
	var g errgroup.Group
	for _, h := range w.others(owner) {
		g.Go(func() error {
			if from, err := h.take(0); err != nil || from != string(owner.id) {
				return fmt.Errorf("%s took it from %s: %v", h.id, from, err)
			}
			return nil
		})
	}
	time.AfterFunc(5*time.Second, func() { close(gate) }) // more than twice what they would wait for silence
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := w.bucket.bytes.Load(); n != int64(w.frames[0].Length) {
		t.Errorf("%d bytes left the bucket", n)
	}
}

// An owner that sees a better one passes the question on, once: two that take
// each other for the better one do not send it round.
func TestAQuestionIsPassedOnOnce(t *testing.T) {
	t.Parallel()
	w := found(t, 40)
	w.settle(3, patient)
	a, b, c := w.houses[0], w.houses[1], w.houses[2]
	a.See([]gossip.Member{a.member(), b.member()})
	b.See([]gossip.Member{a.member(), c.member()})
	c.See([]gossip.Member{a.member(), b.member(), c.member()})
	passed := 0
	for i := range w.frames {
		if a.Owns(w.frames[i]) || b.Owns(w.frames[i]) || !c.Owns(w.frames[i]) {
			continue
		}
		passed++
		if from, err := a.take(i); err != nil || from != string(b.id) {
			t.Errorf("frame %d came from %s: %v", i, from, err)
		}
	}
	if passed == 0 {
		t.Fatal("no frame is of use for this test")
	}
	if s := b.Stats(); s.Forwarded != uint64(passed) || s.Pulled != 0 {
		t.Errorf("the one in between did %+v for %d frames", s, passed)
	}
	if s := c.Stats(); s.Pulled != uint64(passed) {
		t.Errorf("the owner did %+v for %d frames", s, passed)
	}
	// Now b and c take each other for the better owner.
	b.See([]gossip.Member{a.member(), c.member()})
	c.See([]gossip.Member{a.member(), b.member()})
	before := w.bucket.bytes.Load()
	for i := range w.frames {
		if _, err := a.take(i); err != nil {
			t.Error(err)
		}
	}
	if n := w.bucket.bytes.Load() - before; n > 2*w.want.Size {
		t.Errorf("%d bytes left the bucket", n)
	}
}

// An owner that the trust pack has not reached yet waits for it a moment; one that
// it never reaches is not asked again for that release.
func TestAPackMayComeLate(t *testing.T) {
	t.Parallel()
	w := found(t, 24)
	w.settle(1, patient)
	var told atomic.Bool
	w.house("late", func(o *share.Options) {
		patient(o)
		o.Timing.News = 2 * time.Second
		backed := o.Backed
		o.Backed = func(d fleet.Digest) (string, bool) {
			path, ok := backed(d)
			return path, ok && told.Load()
		}
	})
	w.introduce()
	a, late := w.houses[0], w.houses[1]
	for i := range w.frames {
		if from, err := a.take(i); err != nil || from != "bucket" {
			t.Fatalf("frame %d came from %s: %v", i, from, err)
		}
	}
	if n := late.Stats().Refused; n != 1 || a.Sharers(w.want.Key) != 1 || a.Sharers(fleet.DigestOf([]byte("another"))) != 2 {
		t.Errorf("it was asked %d times; %d share the release", n, a.Sharers(w.want.Key))
	}
	// Seen by somebody who does not know of that yet, it is told in the middle of a question.
	w.house("new", patient)
	w.introduce()
	time.AfterFunc(50*time.Millisecond, func() {
		told.Store(true)
		late.Believed()
	})
	for i := range w.frames {
		if late.Owns(w.frames[i]) {
			if from, err := w.houses[2].take(i); err != nil || from != "late" {
				t.Errorf("frame %d came from %s: %v", i, from, err)
			}
		}
	}
}

// Whose bucket costs money asks others, and is asked by nobody; who does not
// share, is not proven or is a coordinator is not asked either.
func TestWhoIsNotAsked(t *testing.T) {
	t.Parallel()
	w := found(t, 12)
	w.settle(3, patient)
	metered := w.houses[2]
	view := []gossip.Member{w.houses[0].member(), w.houses[1].member(), metered.member()}
	view[2].Metered = true
	for _, edit := range []func(*gossip.Member){
		func(m *gossip.Member) { m.Share = 0 }, func(m *gossip.Member) { m.Proven = false }, func(m *gossip.Member) { m.Coordinator = true },
	} {
		m := member("x", "127.0.0.1:1")
		edit(&m)
		view = append(view, m)
	}
	for _, h := range w.houses {
		h.See(view)
		if n, want := h.Sharers(w.want.Key), 2; n != want && h != metered {
			t.Errorf("%s sees %d sharers, want %d", h.id, n, want)
		}
	}
	if n := metered.Sharers(w.want.Key); n != 3 {
		t.Errorf("the metered member sees %d sharers, itself among them", n)
	}
	for i := range w.frames {
		if from, err := metered.take(i); err != nil || from == "bucket" {
			t.Errorf("frame %d came from %s: %v", i, from, err)
		}
	}
	if s := metered.Stats(); s.Served+s.Pulled+s.Refused > 0 {
		t.Errorf("the metered member did %+v", s)
	}
}

// waiting is how many have connected to a listener that nobody serves.
func waiting(t *testing.T, ln net.Listener) int {
	t.Helper()
	last, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for n := 0; ; n++ {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.RemoteAddr().String() == last.LocalAddr().String() {
			return n
		}
	}
}

// A neighbour that is silent is left alone after one try, and asked again later.
func TestASilentNeighbourCostsOneTry(t *testing.T) {
	t.Parallel()
	w := found(t, 24)
	w.settle(1, func(o *share.Options) {
		o.Timing = share.Timing{Dial: 50 * time.Millisecond, Stall: 50 * time.Millisecond, Rest: time.Hour}
	})
	ln := listen(t)
	w.introduce(member("silent", ln.Addr().String()))
	for i := range w.frames {
		from, err := w.houses[0].take(i)
		if err != nil || from != "bucket" {
			t.Fatalf("frame %d came from %s: %v", i, from, err)
		}
	}
	if n := waiting(t, ln); n != 1 {
		t.Errorf("a silent neighbour was tried %d times", n)
	}
	if n := w.houses[0].Sharers(w.want.Key); n != 1 {
		t.Errorf("%d are taken for sharing", n)
	}
	w.houses[0].See([]gossip.Member{w.houses[0].member()}) // it leaves
	w.introduce(member("silent", ln.Addr().String()))
	if n := w.houses[0].Sharers(w.want.Key); n != 2 {
		t.Errorf("%d are taken for sharing when it is back", n)
	}
}
