package attack_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// added is the keys that a step puts below a prefix.
func (b *bucket) added(t *testing.T, prefix string, step func()) []string {
	t.Helper()
	before := b.keys(t, prefix)
	step()
	return slices.DeleteFunc(b.keys(t, prefix), func(k string) bool { return slices.Contains(before, k) })
}

// standing is how a model stands on a member, as the coordinator tells it.
func standing(m api.MemberInfo, model fleet.ModelName) api.ModelStatus {
	for _, s := range m.Models {
		if s.Model == model {
			return s
		}
	}
	return api.ModelStatus{}
}

// fails waits until the device says that it could not install, in these words, and
// the coordinator sees it, as nobody's release's fault.
func (d *device) fails(serving string, words ...string) {
	d.f.t.Helper()
	d.until("it says "+strings.Join(words, ", "), func(l local.Listing) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(of(l, model).FailureText, w) })
	})
	d.f.sees(d.id, "to fail, for no fault of the release's", func(m api.MemberInfo) bool {
		s := standing(m, model)
		return s.FailureCode != "" && s.Failure == fleet.TransportFailure && s.Running == serving && !s.Failing.IsZero()
	})
}

// Whoever holds the bucket changes the bytes of a model, then what says where they
// lie.
func TestBucketRewrittenFrames(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	content := strings.Repeat("0123456789abcdef", 1<<12)
	files := f.bucket.added(t, "files/", func() { f.publish("vision", "detector@2.0.0", content) })
	good := map[string][]byte{}
	for _, key := range files {
		good[key] = f.bucket.get(t, key)
		if !strings.HasSuffix(key, ".idx") {
			f.bucket.put(t, key, bytes.Repeat([]byte{'x'}, len(good[key])))
		}
	}
	id := f.start("detector@2.0.0")
	d.fails("detector@1.0.0", "weights.bin")
	for _, key := range files {
		f.bucket.put(t, key, []byte("no index"))
	}
	d.fails("detector@1.0.0", "index")
	d.stillServes("detector@1.0.0", "one")
	f.bucket.revert(t, good)
	f.settled(id)
	d.serves("detector@2.0.0")
	d.stillServes("detector@2.0.0", content)
}

// A bundle by another key, of other files, in the place of the publisher's: before
// the release is admitted the coordinator refuses it, afterwards each member does.
func TestBucketRewrittenBundle(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	folder := t.TempDir()
	sure(t, os.WriteFile(filepath.Join(folder, "weights.bin"), []byte("evil"), 0o644))
	m, err := oms.Hash(t.Context(), folder, oms.Options{Name: "detector"})
	sure(t, err)
	evil, err := oms.Sign(m, ephemeral(t))
	sure(t, err)

	key := "models/vision/detector/2.0.0/default.oms"
	f.publish("vision", "detector@2.0.0", "two", "--no-admit")
	good := f.bucket.get(t, key)
	f.bucket.put(t, key, evil)
	f.fails(fault.Untrusted, []string{"rule bundle", "detector@2.0.0"}, "releases", "admit", "vision")
	f.bucket.put(t, key, good)
	f.run("releases", "admit", "vision")

	f.bucket.put(t, key, evil)
	id := f.start("detector@2.0.0")
	d.fails("detector@1.0.0", "rule bundle")
	d.stillServes("detector@1.0.0", "one")
	f.bucket.put(t, key, good)
	f.settled(id)
	d.stillServes("detector@2.0.0", "two")
}

// The pack and the timestamp, the only objects that change, are replaced by junk,
// by another fleet's and by old ones. Members that look there believe none of it,
// and the coordinator puts its own there again at the next occasion.
func TestBucketRewrittenPack(t *testing.T) {
	t.Parallel()
	f, other := newField(t, fieldOptions{}), newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	packKey, timestampKey := fleet.DefaultGroup.PackKey(), trust.MetadataKey("timestamp", 0)
	old := map[string][]byte{packKey: f.pack(), timestampKey: f.bucket.get(t, timestampKey)}
	f.runs("detector@2.0.0", "two", d)
	serves := "detector@2.0.0"
	for _, c := range []struct {
		next fleet.Version
		rule trust.Rule
		set  map[string][]byte
	}{
		{"3.0.0", trust.RuleTimestamp, old},
		{"4.0.0", trust.RuleTimestamp, map[string][]byte{packKey: other.pack(), timestampKey: other.bucket.get(t, timestampKey)}},
		{"5.0.0", trust.RuleFormat, map[string][]byte{packKey: []byte("junk"), timestampKey: []byte("junk")}},
	} {
		ref := "detector@" + string(c.next)
		f.publish("vision", ref, "two")
		until(t, "the pack tells of "+ref, func() (bool, string) { // then the coordinator writes nothing until it has to
			return strings.Contains(string(f.unpacked().Publishers[teamRole]), string(c.next)), ""
		})
		f.bucket.revert(t, c.set)
		d.offers(c.set[packKey]) // as one that is carried from the bucket by hand
		d.refuses("file", c.rule)
		d.stillServes(serves, "two")
		f.settled(f.start(ref))
		d.settles(ref)
		serves = ref
		if bytes.Equal(f.pack(), c.set[packKey]) {
			t.Errorf("%s: the coordinator left the pack there", ref)
		}
		d.takes(f.pack())
	}
}

// All of the repository is put back to what it was a release ago, while the
// coordinator is away: it finds a bucket older than what it signed itself.
func TestBucketOldVersionsPutBack(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	was := f.bucket.copy(t, "tuf/", "packs/")
	f.runs("detector@2.0.0", "two", d)
	now := f.bucket.copy(t, "tuf/", "packs/")
	ends(t, f.coord, syscall.SIGKILL)
	f.bucket.revert(t, was, "tuf/", "packs/")
	f.restart(f.coord)
	if code := f.coord.ExitCode(); code != fault.Untrusted.Exit() || !f.coord.Logged("rule version", "put it back") {
		t.Errorf("the coordinator went on from a bucket that was put back: exit code %d", code)
	}
	d.offers(f.pack())
	d.refuses("file", trust.RuleTimestamp)
	d.until("it is untrusted", func(l local.Listing) bool { return l.Freshness == "untrusted" })
	d.stillServes("detector@2.0.0", "two")
	f.bucket.revert(t, now, "tuf/", "packs/")
	f.restart(f.coord)
	f.answers()
	f.untrusted(d, false)
	f.runs("detector@3.0.0", "three", d)
}

// Objects are deleted: whatever is gone, members serve what they have, and say what
// they miss.
func TestBucketObjectsDeleted(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	f.publish("vision", "detector@2.0.0", "two")
	was := f.bucket.copy(t, "")
	f.bucket.revert(t, nil, "files/", "models/", "packs/", "tuf/timestamp.json", "tuf/2.pub-vision.json")
	id := f.start("detector@2.0.0")
	d.until("it says what is missing", func(l local.Listing) bool { return of(l, model).Failure == fleet.TransportFailure })
	d.stillServes("detector@1.0.0", "one")
	ends(t, d.Program, syscall.SIGKILL)
	f.restart(d.Program)
	d.serves("detector@1.0.0")
	d.stillServes("detector@1.0.0", "one")
	for key, body := range was { // what the coordinator wrote anew since stays
		if !strings.HasPrefix(key, "packs/") && key != "tuf/timestamp.json" {
			f.bucket.put(t, key, body)
		}
	}
	f.settled(id)
	d.settles("detector@2.0.0")
}
