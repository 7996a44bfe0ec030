package lambdamodel_test

import (
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// change signs the next version of the publisher's role and has it admitted.
func (f *factory) change(c repository.Change) {
	f.t.Helper()
	ctx := f.t.Context()
	home, err := folder.Open(f.path("fleet"))
	if err != nil {
		f.t.Fatal(err)
	}
	bucket, err := folder.OpenBucket(ctx, home.FleetFile)
	if err != nil {
		f.t.Fatal(err)
	}
	repo, err := home.Repository(ctx, bucket)
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := signer.Load(ctx, home.KeyPath("publisher-vision"))
	if err != nil {
		f.t.Fatal(err)
	}
	draft, err := repo.Draft(ctx, "vision")
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := draft.Next(c, time.Now(), key)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := bucket.Create(ctx, signed.Write.Key, registry.BodyOf(signed.Write.Body)); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.client.Admit(ctx, api.AdmitRequest{Team: "vision"}); err != nil {
		f.t.Fatal(err)
	}
}

// A release that its publisher takes back is left by functions too: for the one
// before, and when that goes as well for none, until another is rolled out.
func TestADelistedReleaseIsLeftByFunctions(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	f.invoke(fn, "a") // it becomes a member
	f.publish("1.0.0", "one")
	first := f.rollout("1.0.0", 50*time.Millisecond, fleet.Health{})
	serves := func(ref string) {
		t.Helper()
		f.until(fn, "a", "it serves "+ref, func(a answer, _ lambdasim.Response) bool { return a.Release == ref })
	}
	f.until(fn, "a", "1.0.0 is stable", func(answer, lambdasim.Response) bool {
		r, err := f.client.Rollout(t.Context(), first)
		return err == nil && r.State == "Succeeded"
	})
	f.publish("2.0.0", "two")
	f.rollout("2.0.0", 50*time.Millisecond, fleet.Health{})
	serves("detector@2.0.0")
	f.change(repository.Change{Delist: []string{"detector@2.0.0"}})
	serves("detector@1.0.0")
	f.change(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 2}})
	f.until(fn, "a", "it serves nothing", func(_ answer, r lambdasim.Response) bool { return r.FunctionError != "" })
	f.publish("3.0.0", "three")
	f.rollout("3.0.0", 50*time.Millisecond, fleet.Health{})
	serves("detector@3.0.0")
}

// Nor does a function return to a release that the operator took it back from when
// the one it went back to is delisted; it may be rolled out again.
func TestADelistingBringsNoFunctionBackToWhatWasTakenBack(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	f.invoke(fn, "a") // it becomes a member
	state := func(id fleet.RolloutID) string {
		r, err := f.client.Rollout(t.Context(), id)
		if err != nil {
			return err.Error()
		}
		return r.State
	}
	settle := func(version string) {
		t.Helper()
		id := f.rollout(version, 50*time.Millisecond, fleet.Health{})
		f.until(fn, "a", version+" is stable", func(a answer, _ lambdasim.Response) bool {
			return state(id) == "Succeeded" && a.Release == "detector@"+version
		})
	}
	f.publish("1.0.0", "one")
	f.publish("2.0.0", "two")
	settle("1.0.0")
	settle("2.0.0")
	settle("1.0.0")
	f.change(repository.Change{Delist: []string{"detector@1.0.0"}})
	f.until(fn, "a", "it serves nothing, and says why", func(_ answer, r lambdasim.Response) bool {
		return r.FunctionError != "" && strings.Contains(string(r.Payload), "detector@1.0.0 was revoked") && strings.Contains(string(r.Payload), "nothing to go back to")
	})
	settle("2.0.0") // on purpose
}
