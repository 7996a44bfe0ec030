package coordinator

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// flaky is a bucket that fails to remove every other time.
type flaky struct {
	*dir.Store
	calls int
}

var errFlaky = errors.New("the power failed")

func (f *flaky) Remove(ctx context.Context, key string) error {
	if f.calls++; f.calls%2 == 1 {
		return errFlaky
	}
	return f.Store.Remove(ctx, key)
}

// Proposals go a day after nobody can approve them any more, whatever fails on the
// way; what waits, what is young and what is no proposal stays.
func TestProposalsAreRemovedOnceNobodyCanApproveThem(t *testing.T) {
	t.Parallel()
	folder, now := t.TempDir(), time.Now()
	store, err := dir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	bucket := &flaky{Store: store}
	put := func(key string, body []byte, age time.Duration) {
		if _, err := store.Create(t.Context(), key, registry.BodyOf(body)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(folder, key), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	proposal := func(version int64, expires time.Time, age time.Duration) string {
		m := metadata.Targets(expires)
		m.Signed.Version = version
		raw, err := m.ToBytes(false)
		if err != nil {
			t.Fatal(err)
		}
		key := repository.ProposalKey("vision", version, raw)
		put(key, raw, age)
		return key
	}
	const old, young = 48 * time.Hour, time.Hour
	year := now.Add(365 * 24 * time.Hour)
	for v := range int64(3) {
		proposal(v+1, year, old) // done, or somebody was quicker
	}
	proposal(4, now.Add(-old), old) // expired
	stay := []string{proposal(4, year, old), proposal(3, year.Add(time.Hour), young), proposal(5, now.Add(-young), old), "proposals/pub-vision/readme.txt", "proposals/pub-audio/1.x.json", "tuf/1.pub-vision.json"}
	for _, key := range stay[3:] {
		put(key, []byte(`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`), old) // go-tuf panics on it
	}
	for n := 0; ; n++ {
		removed, err := removeProposals(t.Context(), bucket, map[string]int64{"pub-vision": 3}, now)
		if n == 0 && removed != 2 {
			t.Errorf("of four, two of which could not be removed, %d were", removed)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errFlaky) || n > 20 {
			t.Fatal(err)
		}
	}
	var left []string
	for o, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, o.Key)
	}
	slices.Sort(stay)
	if !slices.Equal(left, stay) {
		t.Errorf("left are %v, want %v", left, stay)
	}
}
