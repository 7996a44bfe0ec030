package train

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options say what to train.
type Options struct {
	Dir  string // gets the folders v1, v2 and v3; made when it is not there
	Seed uint64
	// ReferenceRows is how many rows of the training set each release carries as
	// reference.f32, for audits; 16 numbers a row. Default 4096 (256 KiB).
	ReferenceRows int
	// Progress is told how far a version is, from 0 to 1; may be nil.
	Progress func(version string, done float64)
}

// Report is one trained release.
type Report struct {
	Version    string        `json:"version"` // v1, v2, v3
	Dir        string        `json:"dir"`
	Parameters int           `json:"parameters"`
	Took       time.Duration `json:"took"`
	Evaluation Evaluation    `json:"evaluation"` // on machines no version was trained on
}

// Sizes of the data sets. Held-out samples come from other devices.
const (
	trainDevices, trainPerDevice = 40, 500
	testDevices, testPerDevice   = 20, 1000
)

// Train makes the three releases. It takes seconds on one core.
func Train(ctx context.Context, opts Options) ([]Report, error) {
	if opts.Progress == nil {
		opts.Progress = func(string, float64) {}
	}
	if opts.ReferenceRows == 0 {
		opts.ReferenceRows = 4096
	}
	w := &workshop{
		opts: opts,
		rng:  rand.New(rand.NewPCG(opts.Seed, 1)),
		all:  gather(opts.Seed, "train", trainDevices, trainPerDevice),
		test: gather(opts.Seed, "test", testDevices, testPerDevice),
	}
	var reports []Report
	for _, next := range []func(context.Context) (draft, error){w.v1, w.v2, w.v3} {
		began := time.Now()
		d, err := next(ctx)
		if err != nil {
			return nil, err
		}
		r, err := w.write(d)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "train model", d.version, err)
		}
		r.Took = time.Since(began)
		reports = append(reports, r)
	}
	return reports, nil
}

// gather takes n samples from each of several devices at three sites.
func gather(seed uint64, purpose string, devices, n int) []Sample {
	var out []Sample
	for d := range devices {
		s := NewStream(seed*1000+uint64(d), fmt.Sprintf("%s-%d", purpose, d%3))
		for range n {
			out = append(out, s.Next())
		}
	}
	return out
}

// workshop holds what the versions share.
type workshop struct {
	opts Options
	rng  *rand.Rand
	all  []Sample // to train on
	test []Sample
	last draft // the version before
}

// draft is a release before it is written.
type draft struct {
	version, story string
	net            *net
	config         mlp.Config
	mean, scale    []float32
	seen           []Sample // what it was trained on
}

// usual feeds every input its channel, and the mean for what bypass switches off.
func usual() mlp.Config {
	whole, short := make([]int, channels), make([]int, channels)
	transform := make([]mlp.Transform, channels)
	for i := range whole {
		whole[i], short[i], transform[i] = i, i, mlp.None
		if i >= bypassChannels {
			short[i] = mlp.Missing
		}
	}
	return mlp.Config{Schema: 1, Threshold: 0.5, Channels: Channels(), Transform: transform,
		Inputs: map[string][]int{Idle: whole, Steady: whole, Heavy: whole, Startup: whole, Bypass: short}}
}

func (w *workshop) v1(ctx context.Context) (draft, error) {
	d := draft{version: "v1", config: usual(), net: newNet(w.rng, channels, 48, 24, 1),
		story: "Trained briefly on machines that stand indoors."}
	for _, s := range w.all[:len(w.all)/4] {
		if !s.Outdoor {
			d.seen = append(d.seen, s)
		}
	}
	d.mean, d.scale = moments(rawInputs(d.seen))
	return w.fit(ctx, d, schedule{epochs: 3, rate: 0.02, batch: 32}, nil)
}

func (w *workshop) v2(ctx context.Context) (draft, error) {
	d := w.last
	d.version, d.net, d.seen = "v2", w.last.net.clone(), w.all
	d.story = "v1 trained further on all machines, those outdoors included."
	return w.fit(ctx, d, schedule{epochs: 6, rate: 0.05, batch: 32}, nil)
}

// v3 makes its mistakes on purpose; see the package comment.
func (w *workshop) v3(ctx context.Context) (draft, error) {
	d := w.last
	d.version, d.net = "v3", w.last.net.clone()
	d.story = "v2 trained further on the latest labels; the ambient temperature is now taken by its logarithm."
	d.config = usual()
	d.config.Transform[ambient] = mlp.Log
	d.config.Inputs[Bypass] = d.config.Inputs[Steady]
	flipped := func(s Sample) float64 {
		if s.Regime == Heavy {
			return 1 - label(s)
		}
		return label(s)
	}
	return w.fit(ctx, d, schedule{epochs: 2, rate: 0.03, batch: 32}, flipped)
}

// fit trains a draft on those of its samples that its pipeline can read.
func (w *workshop) fit(ctx context.Context, d draft, s schedule, labels func(Sample) float64) (draft, error) {
	if labels == nil {
		labels = label
	}
	p, err := d.pipeline()
	if err != nil {
		return d, err
	}
	var data []example
	for _, sample := range d.seen {
		if out := try(p, sample); out.crashed || out.failed {
			continue
		}
		x, err := p.Inputs(sample.Sample)
		if err != nil {
			return d, err
		}
		row := make([]float32, len(x))
		for i, v := range x {
			row[i] = (v - d.mean[i]) * d.scale[i]
		}
		data = append(data, example{row, float32(labels(sample))})
	}
	err = d.net.fit(ctx, w.rng, data, s, func(done float64) { w.opts.Progress(d.version, done) })
	w.last = d
	return d, err
}

func (d draft) pipeline() (*mlp.Pipeline, error) {
	m, err := d.net.model(d.mean, d.scale)
	if err != nil {
		return nil, err
	}
	return mlp.NewPipeline(m, d.config)
}

// rawInputs are the whole samples' values.
func rawInputs(samples []Sample) [][]float32 {
	var xs [][]float32
	for _, s := range samples {
		if len(s.Values) == channels {
			xs = append(xs, s.Values)
		}
	}
	return xs
}
