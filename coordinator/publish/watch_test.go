package publish_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

var stampKey = trust.MetadataKey("timestamp", 0)

// lay puts anything into the bucket, as who has the right to write there can.
func (w *world) lay(key, text string) {
	w.t.Helper()
	_, etag, err := w.bucket.Get(w.t.Context(), key, "")
	if err != nil {
		w.t.Fatal(err)
	}
	must(w.bucket.Swap(w.t.Context(), key, []byte(text), etag))(w.t)
}

func (w *world) lies(key string) string {
	w.t.Helper()
	b, _, err := w.bucket.Get(w.t.Context(), key, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// Junk over what members read is found within a minute, told of once, and put
// right; so is an old pack that was put back. Telling comes first.
func TestJunkInTheBucketIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var told []string
	fails := error(nil)
	w.opts.Tampered = func(_ context.Context, x publish.Tampered) error {
		if fails == nil {
			told = append(told, x.Key)
		}
		return fails
	}
	p := must(w.open())(t)
	now := time.Now()
	must(p.Publish(t.Context(), directive(1), now))(t)
	packKey := fleet.DefaultGroup.PackKey()
	old := w.lies(packKey)
	must(p.Publish(t.Context(), directive(2), now))(t)
	pack, stamp := w.lies(packKey), w.lies(stampKey)
	refresh := func() error {
		t.Helper()
		now = now.Add(time.Minute)
		done, _, err := p.Refresh(t.Context(), now)
		if done {
			t.Errorf("something was signed anew at %s", now)
		}
		return err
	}
	for range 2 {
		if err := refresh(); err != nil || len(told) > 0 {
			t.Fatalf("told of %q, error %v", told, err)
		}
	}

	w.lay(stampKey, "junk")
	w.lay(packKey, old)
	fails = errCrash
	if err := refresh(); err == nil || w.lies(packKey) != old || p.Mended() != 0 {
		t.Errorf("put right before anybody was told: %v", err)
	}
	fails = nil
	if err := refresh(); err != nil || w.lies(packKey) != pack || w.lies(stampKey) != stamp {
		t.Errorf("not put right: %v", err)
	}
	if err := refresh(); err != nil {
		t.Error(err)
	}
	slices.Sort(told)
	if diff := cmp.Diff([]string{packKey, stampKey}, told); diff != "" || p.Mended() != 2 {
		t.Errorf("told of it (-want +got), %d mended:\n%s", p.Mended(), diff)
	}

	// Who publishes over it tells too.
	told = nil
	w.lay(stampKey, "junk")
	must(p.Publish(t.Context(), directive(3), now))(t)
	if diff := cmp.Diff([]string{stampKey}, told); diff != "" {
		t.Errorf("told of it (-want +got):\n%s", diff)
	}
	if w.member() != 3 {
		t.Errorf("members see directive %d", w.member())
	}
}

// Who may write to the bucket and sign nothing leaves a team out of the pack, and has
// its timestamp be another one to the eye. It is put right as any junk is.
func TestAPackWithSpaceInItIsNoNewerOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	told := 0
	w.opts.Tampered = func(context.Context, publish.Tampered) error { told++; return nil }
	p := must(w.open())(t)
	now := time.Now()
	must(p.Publish(t.Context(), directive(1), now))(t)
	key := fleet.DefaultGroup.PackKey()
	own := w.lies(key)
	sly := must(trust.DecodePack([]byte(own)))(t)
	sly.Timestamp = bytes.Replace(sly.Timestamp, []byte(":"), []byte(": "), 1)
	w.lay(key, string(must(sly.Encode())(t)))
	w.lay(stampKey, string(sly.Timestamp))
	if _, _, err := p.Refresh(t.Context(), now.Add(time.Minute)); err != nil {
		t.Error(err)
	}
	if told != 2 || w.lies(key) != own || w.lies(stampKey) == string(sly.Timestamp) {
		t.Errorf("told %d times, put right: %v, %v", told, w.lies(key) == own, w.lies(stampKey) != string(sly.Timestamp))
	}
}
