package serve

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
)

func TestAnEventIsScoredWithTheReleaseAtHand(t *testing.T) {
	t.Parallel()
	m, err := mlp.New([]float32{0, 0}, []float32{1, 1}, []mlp.Layer{{In: 2, Out: 1, Weight: []float32{1, -1}, Bias: []float32{0}}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := mlp.NewPipeline(m, mlp.Config{
		Schema: 1, Threshold: 0.5, Channels: []string{"a", "b"}, Transform: []mlp.Transform{mlp.None, mlp.None},
		Inputs: map[string][]int{"steady": {0, 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	call := &lambdamodel.Call[*mlp.Pipeline]{Model: p, Release: lambdamodel.Release{Ref: "m@1"}}
	for event, want := range map[string]reply{
		`{"regime":"steady","features":[3,1],"label":true}`: {Score: 1 / (1 + math.Exp(-2)), Class: "positive", Release: "m@1"},
		`{"regime":"steady","features":[1,3]}`:              {Score: 1 / (1 + math.Exp(2)), Class: "negative", Release: "m@1"},
	} {
		var in request
		if err := json.Unmarshal([]byte(event), &in); err != nil {
			t.Fatal(err)
		}
		got, err := score(t.Context(), call, in)
		if err != nil || got.Class != want.Class || got.Release != want.Release || math.Abs(got.Score-want.Score) > 1e-6 {
			t.Errorf("%s: %+v %v, want %+v", event, got, err, want)
		}
	}
	if _, err := score(t.Context(), call, request{Regime: "unknown"}); err == nil {
		t.Error("an unknown regime was scored")
	}
	if _, err := open(lambdamodel.Release{Path: t.TempDir()}); err == nil {
		t.Error("an empty folder was opened")
	}
}
