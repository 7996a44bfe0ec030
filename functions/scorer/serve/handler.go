package serve

import (
	"context"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
)

// request is one sample, and the truth where it is known.
type request struct {
	Regime   string    `json:"regime"`
	Features []float32 `json:"features"`
	Label    *bool     `json:"label,omitempty"`
}

// reply is the model's answer.
type reply struct {
	Score   float64 `json:"score"`
	Class   string  `json:"class"` // positive or negative
	Release string  `json:"release"`
}

func open(r lambdamodel.Release) (*mlp.Pipeline, error) { return mlp.Open(r.Path) }

func score(_ context.Context, call *lambdamodel.Call[*mlp.Pipeline], in request) (reply, error) {
	// Where one environment takes several invocations at once they share the
	// pipeline, so each forks its own.
	answer, err := call.Model.Fork().Score(mlp.Sample{Regime: in.Regime, Values: in.Features})
	if err != nil {
		return reply{}, err
	}
	call.Score(answer.Score)
	if in.Label != nil {
		call.Right(answer.Positive == *in.Label)
	}
	class := "negative"
	if answer.Positive {
		class = "positive"
	}
	return reply{Score: answer.Score, Class: class, Release: call.Release.Ref}, nil
}
