package train_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
	"github.com/modelfleet/modelfleet/infra/demo/train"
)

// Training takes a minute under the race detector, so both tests look at the
// same two runs.
func TestTraining(t *testing.T) {
	t.Parallel()
	var runs [2][]train.Report
	var group errgroup.Group
	for i := range runs {
		dir := t.TempDir()
		group.Go(func() (err error) {
			runs[i], err = train.Train(t.Context(), train.Options{Dir: dir, Seed: 7, ReferenceRows: 10})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Run("TheThreeReleasesAreWhatTheDemoSaysTheyAre", func(t *testing.T) { checkQuality(t, runs[0]) })
	t.Run("ASeedGivesTheSameFiles", func(t *testing.T) {
		checkSame(t, filepath.Dir(runs[0][0].Dir), filepath.Dir(runs[1][0].Dir))
	})
}

func checkQuality(t *testing.T, reports []train.Report) {
	for _, r := range reports {
		t.Logf("%s: %v %d parameters, overall %+v", r.Version, r.Took, r.Parameters, r.Evaluation.Overall)
		for name, f := range r.Evaluation.Slices {
			t.Logf("  %-8s %+v", name, f)
		}
		if err := mlp.SelfTest(r.Dir); err != nil {
			t.Errorf("%s: self-test: %v", r.Version, err)
		}
	}
	v1, v2, v3 := reports[0].Evaluation, reports[1].Evaluation, reports[2].Evaluation
	if v1.Overall.Accuracy < 0.75 || v1.Overall.Errors+v1.Overall.Crashes > 0 {
		t.Errorf("v1 is not serviceable: %+v", v1.Overall)
	}
	if gain := v2.Overall.Accuracy - v1.Overall.Accuracy; gain < 0.03 {
		t.Errorf("v2 is better than v1 by %.3f only", gain)
	}
	if gain := v2.Slices["outdoor"].Accuracy - v1.Slices["outdoor"].Accuracy; gain < 0.08 {
		t.Errorf("v2 is better outdoors by %.3f only", gain)
	}
	if v2.Overall.Errors+v2.Overall.Crashes > 0 {
		t.Errorf("v2 fails: %+v", v2.Overall)
	}
	if v3.Overall.Accuracy > v1.Overall.Accuracy-0.1 || v3.Slices["heavy"].Accuracy > 0.6 {
		t.Errorf("v3 is not bad enough: %+v, heavy %+v", v3.Overall, v3.Slices["heavy"])
	}
	if v3.Overall.Errors < 0.05 || v3.Overall.Crashes < 0.002 || v3.Slices["bypass"].Crashes != 1 {
		t.Errorf("v3 does not fail as told: %+v, bypass %+v", v3.Overall, v3.Slices["bypass"])
	}
}

func checkSame(t *testing.T, a, b string) {
	for _, v := range []string{"v1", "v2", "v3"} {
		for _, name := range []string{mlp.ModelFile, mlp.ConfigFile, mlp.GoldenFile, train.CardFile, train.BaselineFile, train.ReferenceFile} {
			x, err := os.ReadFile(filepath.Join(a, v, name))
			if err != nil {
				t.Fatal(err)
			}
			y, _ := os.ReadFile(filepath.Join(b, v, name))
			if !cmp.Equal(x, y) {
				t.Errorf("%s/%s differs", v, name)
			}
		}
	}
	var base train.Baseline
	raw, _ := os.ReadFile(filepath.Join(a, "v2", train.BaselineFile))
	if err := json.Unmarshal(raw, &base); err != nil || len(base.Features) != len(train.Channels()) {
		t.Fatalf("baseline: %v, %d features", err, len(base.Features))
	}
	for _, h := range append(base.Features, base.Score) {
		sum := 0.0
		for _, p := range h.Probabilities {
			sum += p
		}
		if math.Abs(sum-1) > 1e-9 || len(h.Probabilities) != len(h.Edges)+1 {
			t.Errorf("%s: probabilities %v of edges %v", h.Name, h.Probabilities, h.Edges)
		}
	}
	if base.PositiveRate < 0.1 || base.PositiveRate > 0.6 {
		t.Errorf("positive rate %g", base.PositiveRate)
	}
}

func TestStreamsAreReproducibleAndDevicesDiffer(t *testing.T) {
	t.Parallel()
	take := func(seed uint64, site string) []train.Sample {
		s := train.NewStream(seed, site)
		out := make([]train.Sample, 4000)
		for i := range out {
			out[i] = s.Next()
		}
		return out
	}
	a := take(1, "oslo")
	if !cmp.Equal(a, take(1, "oslo")) {
		t.Error("the same seed and site give other samples")
	}
	if cmp.Equal(a[:50], take(2, "oslo")[:50]) || cmp.Equal(a[:50], take(1, "rome")[:50]) {
		t.Error("another device or site gives the same samples")
	}
	regimes := map[string]int{}
	for _, s := range a {
		regimes[s.Regime]++
		if want := 12; s.Regime != train.Bypass && len(s.Values) != want {
			t.Fatalf("%s sample of %d values", s.Regime, len(s.Values))
		}
	}
	if share := float64(regimes[train.Bypass]) / 4000; share < 0.003 || share > 0.05 {
		t.Errorf("bypass is %.4f of the samples, want it rare", share)
	}
}
