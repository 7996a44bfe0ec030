package lambdamodel_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// A process that starts with nothing but a pack that has expired, and no
// coordinator, serves what lies in its folder or refuses to, as it was told; with
// a heartbeat's pack in the bucket it is fresh although the coordinator is away.
func TestAColdStartWithAStalePack(t *testing.T) {
	t.Parallel()
	f := newFactory(t, func(o *coordinator.Options) { o.Lifetimes = repository.Lifetimes{Timestamp: 4 * time.Second} })
	folder := t.TempDir()
	start := func(onStale lambdamodel.OnStale) (*lambdamodel.Model[string], error) {
		m, err := lambdamodel.Open(t.Context(), lambdamodel.Options{
			Token: f.token, Model: "detector", Dir: folder, Source: f.path("bucket"), OnStale: onStale, InitBudget: patience,
			Refresh: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}, open)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = m.Current()
		return m, err
	}
	m, _ := start(lambdamodel.ServeStale) // nothing to serve yet
	m.Close()
	f.publish("1.0.0", "one")
	f.rollout("1.0.0", 10*time.Millisecond, fleet.Health{})
	for deadline := time.Now().Add(patience); ; {
		m, err := start(lambdamodel.ServeStale)
		m.Close()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	f.stop()
	<-time.After(5 * time.Second) // past the timestamp's life
	m, err := start(lambdamodel.ServeStale)
	if err != nil {
		t.Errorf("told to serve: %v", err)
	}
	m.Close()
	m, err = start(lambdamodel.RefuseStale)
	if err == nil {
		t.Error("told to refuse, it serves")
	}
	m.Close()
	f.beat(t)
	m, err = start(lambdamodel.RefuseStale)
	if err != nil {
		t.Errorf("with a heartbeat's pack: %v", err)
	}
	m.Close()
}

// beat signs the timestamp as the heartbeat function does.
func (f *factory) beat(t *testing.T) {
	t.Helper()
	file, err := api.LoadFleetFile(f.path("fleet", api.FleetFileName))
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := dir.Open(f.path("bucket"))
	if err != nil {
		t.Fatal(err)
	}
	defer bucket.Close()
	key, err := signer.Load(context.Background(), f.path("fleet", "keys", "timestamp.pem"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := beat.Beat(t.Context(), beat.Options{Bucket: bucket, Pin: file.Root, Key: key, Logger: slog.New(slog.DiscardHandler)}, time.Now())
	if err != nil || !res.Signed {
		t.Fatalf("%+v, %v", res, err)
	}
}
