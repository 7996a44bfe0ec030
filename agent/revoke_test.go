package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// stopped waits until nothing is served and applications are told why.
func (d *device) stopped(why string) {
	d.t.Helper()
	m := d.until("serves nothing: "+why, func(m local.Model) bool { return m.Serving == nil && strings.Contains(m.Revoked, why) })
	if m.Phase != fleet.Quarantined || m.FailureCode != update.CodeRevoked {
		d.t.Errorf("phase %s, code %q", m.Phase, m.FailureCode)
	}
	if _, err := os.Lstat(filepath.Join(d.o.State, "models", string(agenttest.Model), "current")); !os.IsNotExist(err) {
		d.t.Errorf("the link is still there: %v", err)
	}
}

// both has a device run v2, with v1 good beside it.
func both(t *testing.T) (d *device, v1, v2 fleet.Release) {
	t.Helper()
	d = newDevice(t)
	v1, v2 = d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(&v2, nil, 0)
	d.serves(v2, fleet.Healthy)
	return d, v1, v2
}

// What the publisher takes back is left for what was good before, though the
// directive still names it; and when that is taken back too nothing is served.
// Another release ends that, also over a restart.
func TestADelistedReleaseIsLeft(t *testing.T) {
	t.Parallel()
	d, v1, v2 := both(t)
	d.fleet.Change(repository.Change{Delist: []string{v2.Ref()}})
	d.fleet.Offer(d.fleet.Refresh())
	d.serves(v1, fleet.Quarantined)
	if got := d.content(); got != "one" {
		t.Fatalf("current holds %q", got)
	}
	d.fleet.Change(repository.Change{Delist: []string{v1.Ref()}})
	d.fleet.Offer(d.fleet.Refresh())
	d.stopped("lists it no longer")
	d.kill()
	d.run()
	d.stopped("lists it no longer")
	v3 := d.fleet.Publish("3.0.0", weights("three"))
	d.fleet.Direct(&v3, nil, 0)
	if m := d.serves(v3, fleet.Healthy); m.Revoked != "" {
		t.Errorf("revoked: %q", m.Revoked)
	}
}

// A device that was taken back from a release does not return to it by itself, also
// over a restart; it may be told to run it again.
func TestADelistingDoesNotBringBackWhatWasTakenBack(t *testing.T) {
	t.Parallel()
	d, v1, v2 := both(t)
	d.fleet.Direct(&v1, nil, 0)
	d.until("it went back, for good", func(m local.Model) bool {
		return m.Serving != nil && m.Serving.Ref == v1.Ref() && m.Phase == fleet.RolledBack && m.Previous == nil && len(m.Quarantined) == 0
	})
	d.until("no link leads to what it left", func(local.Model) bool {
		_, err := os.Lstat(filepath.Join(d.o.State, "models", string(agenttest.Model), "previous"))
		return os.IsNotExist(err)
	})
	d.kill()
	d.run()
	d.fleet.Change(repository.Change{Delist: []string{v1.Ref()}})
	d.fleet.Offer(d.fleet.Refresh())
	d.stopped("lists it no longer")
	d.fleet.Direct(&v2, nil, 0)
	d.serves(v2, fleet.Healthy)
}

// A floor above what runs is as good as delisting it, for a device that the
// directive names nothing newer to as well.
func TestARaisedFloorIsObeyed(t *testing.T) {
	t.Parallel()
	d, _, v2 := both(t)
	d.fleet.Change(repository.Change{Floors: map[fleet.ModelName]uint64{agenttest.Model: v2.Counter}})
	d.fleet.Offer(d.fleet.Refresh())
	d.until("the way back is gone", func(m local.Model) bool {
		return m.Previous == nil && m.Phase == fleet.Healthy && m.Serving != nil && m.Serving.Ref == v2.Ref()
	})
	d.fleet.Change(repository.Change{Floors: map[fleet.ModelName]uint64{agenttest.Model: v2.Counter + 1}})
	d.fleet.Offer(d.fleet.Refresh())
	d.stopped("floor")
}

// A device that an older release runs on, which the directive does not name any
// more, hears of its delisting all the same: it cannot fetch the newer one.
func TestADelistedReleaseIsLeftThoughNothingNamesIt(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	if err := os.Rename(filepath.Join(d.fleet.Bucket, "files"), filepath.Join(d.fleet.Bucket, "gone")); err != nil {
		t.Fatal(err)
	}
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	if err := os.Rename(filepath.Join(d.fleet.Bucket, "files"), filepath.Join(d.fleet.Bucket, "new")); err != nil {
		t.Fatal(err)
	}
	d.fleet.Direct(&v2, nil, 0)
	d.until("it wants 2.0.0 and cannot have it", func(m local.Model) bool { return m.Want == v2.Ref() && m.Serving != nil && m.Serving.Ref == v1.Ref() })
	d.fleet.Change(repository.Change{Delist: []string{v1.Ref()}})
	d.fleet.Offer(d.fleet.Refresh())
	d.until("nothing is served", func(m local.Model) bool { return m.Serving == nil })
	if err := os.Rename(filepath.Join(d.fleet.Bucket, "new"), filepath.Join(d.fleet.Bucket, "files")); err != nil {
		t.Fatal(err)
	}
	d.serves(v2, fleet.Healthy)
}

// Where the directive says so, the only release there is serves on although it was
// taken back, says so, and gives way to the next one.
func TestAKeptReleaseServesUntilThereIsAnother(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.fleet.Keep()
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Change(repository.Change{Delist: []string{v1.Ref()}})
	d.fleet.Offer(d.fleet.Refresh())
	d.until("kept", func(m local.Model) bool {
		return m.Serving != nil && m.Serving.Ref == v1.Ref() && m.Phase == fleet.Quarantined && strings.Contains(m.Revoked, "served on")
	})
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v2, nil, 0)
	if m := d.serves(v2, fleet.Healthy); m.Revoked != "" || m.Previous != nil {
		t.Errorf("revoked %q, previous %v", m.Revoked, m.Previous)
	}
}

// What is held because nobody backs what the directive names says so, as long as
// it is so, and goes on serving what it has.
func TestAHeldModelSaysWhyItIsHeld(t *testing.T) {
	t.Parallel()
	d, v1, v2 := both(t)
	v3 := d.fleet.Publish("3.0.0", weights("three"))
	d.fleet.Change(repository.Change{Delist: []string{v3.Ref()}})
	d.fleet.Direct(&v3, nil, 0) // somebody decides for it all the same
	m := d.until("it says why it is held", func(m local.Model) bool { return strings.Contains(m.Held, v3.Ref()+" refused: ") })
	if m.Serving == nil || m.Serving.Ref != v2.Ref() || m.Reason != m.Held || !strings.Contains(m.Held, "does not list") {
		t.Errorf("serving %+v, held %q, reason %q", m.Serving, m.Held, m.Reason)
	}
	d.fleet.Direct(&v1, nil, 0)
	d.until("it is held no longer", func(m local.Model) bool {
		return m.Serving != nil && m.Serving.Ref == v1.Ref() && m.Held == "" && !strings.Contains(m.Reason, "refused")
	})
}

// A rollout of another release goes on although the stable one was taken back:
// who is exposed gets it, and nobody is stuck.
func TestARolloutHelpsOutOfADelistedStable(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Change(repository.Change{Delist: []string{v1.Ref()}})
	d.fleet.Direct(&v1, nil, 0)
	d.stopped("lists it no longer")
	d.fleet.Direct(&v1, &v2, 50*time.Millisecond)
	d.serves(v2, fleet.Healthy)
}

// A device behind an air gap, with neither coordinator nor bucket, hears of a
// delisting by a file; the pack from before does not undo it, and says why.
func TestADelistingByFile(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	file := filepath.Join(t.TempDir(), "default.pack.zst")
	d.o.Pack = file
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.coord.Down(true)
	bring := func(pack []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", pack, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	d.fleet.Direct(&v2, nil, 0)
	with := d.fleet.Pack()
	bring(with)
	d.serves(v2, fleet.Healthy)
	d.fleet.Change(repository.Change{Delist: []string{v2.Ref()}})
	bring(d.fleet.Refresh())
	d.serves(v1, fleet.Quarantined)
	bring(with)
	for end := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		l, err := d.cl.List(t.Context())
		if err == nil && strings.Contains(l.Refused, "file: ") && strings.Contains(l.Refused, "older than one seen before") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("an old pack is not refused with its reason: %q, %v", l.Refused, err)
		}
	}
	d.serves(v1, fleet.Quarantined)
}

// A device whose line to the coordinator is cut, and whose bucket is gone, hears
// of a delisting from a neighbour.
func TestADelistingByANeighbour(t *testing.T) {
	t.Parallel()
	f := agenttest.New(t)
	c := f.Serve()
	v1, v2 := f.Publish("1.0.0", weights("one")), f.Publish("2.0.0", weights("two"))
	f.Direct(&v1, nil, 0)
	near, far := addDevice(t, f, c, "near"), addDevice(t, f, c, "far")
	far.plug()
	for _, d := range []*device{near, far} {
		d.o.Gossip = "127.0.0.1:0"
		d.run()
		d.serves(v1, fleet.Healthy)
	}
	f.Direct(&v2, nil, 0)
	near.serves(v2, fleet.Healthy)
	far.serves(v2, fleet.Healthy)
	c.Cut("far")
	far.pull()
	f.Change(repository.Change{Delist: []string{v2.Ref()}})
	f.Offer(f.Refresh())
	near.serves(v1, fleet.Quarantined)
	far.serves(v1, fleet.Quarantined)
}

// plug gives the device a medium of its own with the bucket on it, before it runs.
func (d *device) plug() {
	d.t.Helper()
	d.o.Source = filepath.Join(d.t.TempDir(), "medium")
	if err := os.Symlink(d.fleet.Bucket, d.o.Source); err != nil {
		d.t.Fatal(err)
	}
}

// pull takes the medium away.
func (d *device) pull() {
	d.t.Helper()
	if err := os.Remove(d.o.Source); err != nil {
		d.t.Fatal(err)
	}
}
