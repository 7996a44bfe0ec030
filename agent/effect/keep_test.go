package effect_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/effect"
	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// A collection takes what is not kept by then, which may be less than the effect
// that asked for it says: the link goes before what it leads to. And a second effect
// of the same attempt is not lost because the first has not ended.
func TestNoLinkIsLeftToWhatACollectionTook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := cas.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	slots, err := slot.Open(slot.Options{Dir: filepath.Join(dir, "models")})
	if err != nil {
		t.Fatal(err)
	}
	var releases [3]fleet.Digest
	for i := range releases {
		releases[i] = fleet.DigestOf([]byte{byte(i)})
		if _, err := store.Assemble(releases[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range releases[:2] {
		if err := slots.Switch(model, store.ReleaseDir(d)); err != nil {
			t.Fatal(err)
		}
	}
	var kept atomic.Pointer[[]fleet.Digest]
	kept.Store(&[]fleet.Digest{releases[0], releases[1], releases[2]})
	log := slog.New(slog.DiscardHandler)
	var s source = func(context.Context) error { return nil }
	fetcher, err := delivery.New(delivery.Options{Store: store, Source: s, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	began, goOn := make(chan struct{}, 2), make(chan struct{}, 2)
	r := effect.New(effect.Options{
		Store: store, Slots: slots, Source: s, Fetcher: fetcher, Logger: log, Dead: make(chan error, 1),
		Trusted:  func() *trust.Trusted { return nil },
		Keep:     func() []fleet.Digest { return *kept.Load() },
		Answer:   func(context.Context, fleet.ModelName, update.Event) {},
		Progress: func(update.Effect, delivery.Progress) {},
		Failpoint: func(point string) error {
			if point == "before keep" {
				began <- struct{}{}
				<-goOn
			}
			return nil
		},
	})
	r.Do(t.Context(), update.Effect{Kind: update.Keep, Model: model, Key: "keep/1", Bundles: releases[:]})
	<-began
	kept.Store(&[]fleet.Digest{releases[1]}) // the way back was dropped meanwhile
	r.Do(t.Context(), update.Effect{Kind: update.Keep, Model: model, Key: "keep/1", Bundles: releases[1:2]})
	select {
	case <-began:
	case <-time.After(2 * time.Minute):
		t.Fatal("the second was passed over")
	}
	goOn <- struct{}{}
	goOn <- struct{}{}
	r.Await(2 * time.Minute)
	if store.HasRelease(releases[0]) || store.HasRelease(releases[2]) || !store.HasRelease(releases[1]) {
		t.Error("other releases are here than are kept")
	}
	if to, err := slots.Previous(model); to != "" || err != nil {
		t.Errorf("previous still leads to %s, which was collected: %v", to, err)
	}
}
