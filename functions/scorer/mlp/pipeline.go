package mlp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// The files of a release that this package reads.
const (
	ModelFile  = "model.safetensors"
	ConfigFile = "config.json"
	GoldenFile = "golden.json"
)

// Transform is applied to a channel before it becomes an input.
type Transform string

// The transforms.
const (
	None Transform = "none"
	Log  Transform = "log" // natural; NaN below zero
)

// Missing in a table of [Config.Inputs] feeds an input its mean in training.
const Missing = -1

// Config says how a sample becomes a model's inputs.
type Config struct {
	Schema    int              `json:"schema"`    // 1
	Threshold float64          `json:"threshold"` // a score at or above it is positive
	Channels  []string         `json:"channels"`  // names of a whole sample's values, in order
	Transform []Transform      `json:"transform"` // one for each input
	Inputs    map[string][]int `json:"inputs"`    // regime -> the channel that feeds each input, or Missing
}

// Sample is what the sensors of one machine gave at one moment. In some regimes
// the last channels are switched off and their values not there.
type Sample struct {
	Regime string    `json:"regime"`
	Values []float32 `json:"values"`
}

// Prediction is a model's answer.
type Prediction struct {
	Score    float64 `json:"score"`
	Positive bool    `json:"positive"`
}

// Errors of [Pipeline.Score].
var (
	ErrRegime    = errors.New("the release knows no such regime")
	ErrNotFinite = errors.New("the score is not a finite number")
)

// Pipeline scores samples by one release. It is not safe for use by several
// goroutines; each takes its own by [Pipeline.Fork].
type Pipeline struct {
	config Config
	scorer *Scorer
	x      []float32
}

// Open loads the release in dir.
func Open(dir string) (*Pipeline, error) {
	p, err := open(dir)
	if err != nil {
		return nil, fault.New(fault.Invalid, "load model", dir, err)
	}
	return p, nil
}

func open(dir string) (*Pipeline, error) {
	raw, err := readCapped(filepath.Join(dir, ConfigFile), MaxHeader)
	if err != nil {
		return nil, err
	}
	config, err := ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	weights, err := readCapped(filepath.Join(dir, ModelFile), MaxBytes)
	if err != nil {
		return nil, err
	}
	m, err := Parse(weights)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ModelFile, err)
	}
	return NewPipeline(m, config)
}

func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// ParseConfig reads config.json strictly.
func ParseConfig(raw []byte) (Config, error) {
	var c Config
	if err := decodeStrict(raw, &c); err != nil {
		return c, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	if c.Schema != 1 {
		return c, fmt.Errorf("%s: schema %d is not 1", ConfigFile, c.Schema)
	}
	if !(c.Threshold > 0 && c.Threshold < 1) {
		return c, fmt.Errorf("%s: threshold %g is not between 0 and 1", ConfigFile, c.Threshold)
	}
	return c, nil
}

func decodeStrict(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes follow the JSON value")
	}
	return nil
}

// NewPipeline joins a model with its configuration.
func NewPipeline(m *Model, c Config) (*Pipeline, error) {
	if len(c.Transform) != m.Inputs() {
		return nil, fmt.Errorf("%s has %d transforms for %d inputs", ConfigFile, len(c.Transform), m.Inputs())
	}
	for _, t := range c.Transform {
		if t != None && t != Log {
			return nil, fmt.Errorf("%s: there is no transform %q", ConfigFile, t)
		}
	}
	for regime, table := range c.Inputs {
		if len(table) != m.Inputs() {
			return nil, fmt.Errorf("%s: regime %q feeds %d of %d inputs", ConfigFile, regime, len(table), m.Inputs())
		}
		for _, ch := range table {
			if ch < Missing || ch >= len(c.Channels) {
				return nil, fmt.Errorf("%s: regime %q names channel %d of %d", ConfigFile, regime, ch, len(c.Channels))
			}
		}
	}
	return &Pipeline{config: c, scorer: m.NewScorer(), x: make([]float32, m.Inputs())}, nil
}

// Fork is a pipeline of the same release for another goroutine.
func (p *Pipeline) Fork() *Pipeline {
	return &Pipeline{config: p.config, scorer: p.scorer.m.NewScorer(), x: make([]float32, len(p.x))}
}

// Score scores one sample. The tables are the release's own: one that reaches
// for a channel the regime does not deliver is a bug of the release and panics
// like any bug. Taking such a release back is what the fleet is for.
func (p *Pipeline) Score(s Sample) (Prediction, error) {
	x, err := p.Inputs(s)
	if err != nil {
		return Prediction{}, err
	}
	score, err := p.scorer.Score(x)
	if err != nil {
		return Prediction{}, err
	}
	v := float64(score)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Prediction{Score: v}, ErrNotFinite
	}
	return Prediction{Score: v, Positive: v >= p.config.Threshold}, nil
}

// Inputs is what the model sees of a sample; the slice is valid until the next call.
func (p *Pipeline) Inputs(s Sample) ([]float32, error) {
	table, ok := p.config.Inputs[s.Regime]
	if !ok {
		return nil, ErrRegime
	}
	for i, ch := range table {
		switch {
		case ch == Missing:
			p.x[i] = p.scorer.m.Mean(i)
		case p.config.Transform[i] == Log:
			p.x[i] = float32(math.Log(float64(s.Values[ch])))
		default:
			p.x[i] = s.Values[ch]
		}
	}
	return p.x, nil
}

// Golden is a release's self-test: samples with the scores they must give.
type Golden struct {
	Tolerance float64      `json:"tolerance"`
	Cases     []GoldenCase `json:"cases"`
}

// GoldenCase is one sample of a self-test.
type GoldenCase struct {
	Sample Sample  `json:"sample"`
	Score  float64 `json:"score"`
}

// SelfTest loads the release in dir and compares it with its golden.json.
func SelfTest(dir string) error {
	p, err := Open(dir)
	if err != nil {
		return err
	}
	raw, err := readCapped(filepath.Join(dir, GoldenFile), MaxHeader)
	if err != nil {
		return fault.New(fault.Invalid, "self-test model", dir, err)
	}
	var g Golden
	if err := decodeStrict(raw, &g); err != nil {
		return fault.Newf(fault.Invalid, "self-test model", dir, "%s: %w", GoldenFile, err)
	}
	if len(g.Cases) == 0 || !(g.Tolerance > 0) {
		return fault.Newf(fault.Invalid, "self-test model", dir, "%s has no cases or no tolerance", GoldenFile)
	}
	for i, c := range g.Cases {
		got, err := p.Score(c.Sample)
		if err != nil {
			return fault.Newf(fault.Invalid, "self-test model", dir, "case %d: %w", i, err)
		}
		if d := math.Abs(got.Score - c.Score); !(d <= g.Tolerance) {
			return fault.Newf(fault.Invalid, "self-test model", dir, "case %d scores %.6f, want %.6f", i, got.Score, c.Score)
		}
	}
	return nil
}
