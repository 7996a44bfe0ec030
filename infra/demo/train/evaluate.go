package train

import (
	"errors"
	"math"
	"slices"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
)

// Figures are what one model did on some held-out samples. A sample that gave
// no number or crashed the pipeline is not right.
type Figures struct {
	Samples  int     `json:"samples"`
	Accuracy float64 `json:"accuracy"` // right answers / samples
	Errors   float64 `json:"errors"`   // share that gave no number
	Crashes  float64 `json:"crashes"`  // share that panicked
}

// Evaluation is a model's figures on held-out machines, overall and by slice.
type Evaluation struct {
	Overall Figures            `json:"overall"`
	Slices  map[string]Figures `json:"slices"` // indoor, outdoor, and each regime
}

// outcome is what a pipeline made of one sample.
type outcome struct {
	prediction mlp.Prediction
	failed     bool
	crashed    bool
}

// try scores one sample as an application would, and survives it.
func try(p *mlp.Pipeline, s Sample) (out outcome) {
	defer func() {
		if recover() != nil {
			out.crashed = true
		}
	}()
	prediction, err := p.Score(s.Sample)
	return outcome{prediction: prediction, failed: err != nil}
}

// Evaluate scores samples and compares with the truth.
func Evaluate(p *mlp.Pipeline, samples []Sample) Evaluation {
	type tally struct{ n, right, failed, crashed int }
	tallies := map[string]*tally{}
	for _, s := range samples {
		out := try(p, s)
		place := "indoor"
		if s.Outdoor {
			place = "outdoor"
		}
		for _, name := range []string{"", place, s.Regime} {
			t := tallies[name]
			if t == nil {
				t = &tally{}
				tallies[name] = t
			}
			t.n++
			switch {
			case out.crashed:
				t.crashed++
			case out.failed:
				t.failed++
			case out.prediction.Positive == s.Faulty:
				t.right++
			}
		}
	}
	ev := Evaluation{Slices: map[string]Figures{}}
	for name, t := range tallies {
		n := float64(t.n)
		f := Figures{Samples: t.n, Accuracy: float64(t.right) / n, Errors: float64(t.failed) / n, Crashes: float64(t.crashed) / n}
		if name == "" {
			ev.Overall = f
		} else {
			ev.Slices[name] = f
		}
	}
	return ev
}

// Baseline is what a release's inputs and scores looked like in training; it
// ships inside the release so that drift can be measured anywhere.
type Baseline struct {
	Schema       int           `json:"schema"` // 1
	Samples      int           `json:"samples"`
	PositiveRate float64       `json:"positiveRate"` // of the labels
	Features     []Histogram   `json:"features"`
	Score        Histogram     `json:"score"`
	Calibration  []Calibration `json:"calibration"`
}

// Histogram is a distribution by bins: bin i holds the values in
// [Edges[i-1], Edges[i]), the first and last are open.
type Histogram struct {
	Name          string    `json:"name"`
	Edges         []float64 `json:"edges"`
	Probabilities []float64 `json:"probabilities"`
	Count         int       `json:"count"`
}

// Calibration says how often samples with scores of one bin were positive.
type Calibration struct {
	MeanScore    float64 `json:"meanScore"`
	PositiveRate float64 `json:"positiveRate"`
	Count        int     `json:"count"`
}

const bins = 10

// histogram has the deciles of v for edges.
func histogram(name string, v []float64) Histogram {
	sorted := slices.Clone(v)
	slices.Sort(sorted)
	h := Histogram{Name: name, Count: len(v)}
	for i := 1; i < bins; i++ {
		if e := sorted[i*len(sorted)/bins]; len(h.Edges) == 0 || e > h.Edges[len(h.Edges)-1] {
			h.Edges = append(h.Edges, e)
		}
	}
	h.Probabilities = make([]float64, len(h.Edges)+1)
	for _, x := range v {
		h.Probabilities[bin(h.Edges, x)] += 1 / float64(len(v))
	}
	return h
}

// bin is the index of the bin that holds x.
func bin(edges []float64, x float64) int {
	i, found := slices.BinarySearch(edges, x)
	if found {
		i++
	}
	return i
}

var errNoBaseline = errors.New("no sample of the training set could be scored")

// baseline profiles a pipeline's inputs and scores on its training samples.
func baseline(p *mlp.Pipeline, names []string, samples []Sample) (Baseline, error) {
	features := make([][]float64, len(names))
	var scores, labels []float64
	for _, s := range samples {
		out := try(p, s)
		if out.crashed || out.failed {
			continue
		}
		x, err := p.Inputs(s.Sample)
		if err != nil {
			return Baseline{}, err
		}
		for i, v := range x {
			features[i] = append(features[i], float64(v))
		}
		scores = append(scores, out.prediction.Score)
		labels = append(labels, label(s))
	}
	if len(scores) == 0 {
		return Baseline{}, errNoBaseline
	}
	b := Baseline{Schema: 1, Samples: len(scores), Score: histogram("score", scores)}
	for i, name := range names {
		b.Features = append(b.Features, histogram(name, features[i]))
	}
	b.Calibration = make([]Calibration, bins)
	for i, score := range scores {
		c := &b.Calibration[min(bins-1, int(score*bins))]
		c.MeanScore += score
		c.PositiveRate += labels[i]
		c.Count++
		b.PositiveRate += labels[i] / float64(len(scores))
	}
	for i := range b.Calibration {
		if c := &b.Calibration[i]; c.Count > 0 {
			c.MeanScore /= float64(c.Count)
			c.PositiveRate /= float64(c.Count)
		}
	}
	return b, nil
}

func label(s Sample) float64 {
	if s.Faulty {
		return 1
	}
	return 0
}

// moments are each input's mean and inverse deviation, to normalize by.
func moments(xs [][]float32) (mean, scale []float32) {
	n := len(xs[0])
	mean, scale = make([]float32, n), make([]float32, n)
	for i := range n {
		var sum, square float64
		for _, x := range xs {
			sum += float64(x[i])
			square += float64(x[i]) * float64(x[i])
		}
		m := sum / float64(len(xs))
		sd := math.Sqrt(max(1e-12, square/float64(len(xs))-m*m))
		mean[i], scale[i] = float32(m), float32(1/sd)
	}
	return mean, scale
}
