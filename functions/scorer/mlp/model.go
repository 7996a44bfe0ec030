package mlp

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Layer is a dense layer: out = Weight x in + Bias. All but a model's last one
// are followed by a rectifier.
type Layer struct {
	In, Out int
	Weight  []float32 // Out rows of In
	Bias    []float32 // Out
}

// Model is a binary classifier: inputs are shifted and scaled, go through
// dense layers, and the last layer's one output through a logistic. It does not
// change after it was made and may be shared; each goroutine scores with a
// [Scorer] of its own.
type Model struct {
	mean, scale []float32
	layers      []Layer
	width       int // of the widest layer
}

// The header's metadata that says a file is one of ours.
const (
	formatKey = "format"
	format    = "mlp-logistic/1"
)

// New checks the parts of a model and puts them together; it keeps the slices.
func New(mean, scale []float32, layers []Layer) (*Model, error) {
	if len(mean) == 0 || len(mean) != len(scale) || len(layers) == 0 {
		return nil, errors.New("want as many means as scales, and a layer")
	}
	m := &Model{mean: mean, scale: scale, layers: layers, width: len(mean)}
	in := len(mean)
	for i, l := range layers {
		if l.In != in || l.Out <= 0 || len(l.Weight) != l.In*l.Out || len(l.Bias) != l.Out {
			return nil, fmt.Errorf("layer %d of %d to %d does not fit %d inputs and %d weights", i, l.In, l.Out, in, len(l.Weight))
		}
		if !finite(l.Weight) || !finite(l.Bias) {
			return nil, fmt.Errorf("layer %d holds numbers that are not finite", i)
		}
		in, m.width = l.Out, max(m.width, l.Out)
	}
	if in != 1 {
		return nil, fmt.Errorf("the last layer has %d outputs, want 1", in)
	}
	if !finite(mean) || !finite(scale) {
		return nil, errors.New("a mean or scale is not finite")
	}
	return m, nil
}

func finite(v []float32) bool {
	return !slices.ContainsFunc(v, func(x float32) bool {
		return math.IsNaN(float64(x)) || math.IsInf(float64(x), 0)
	})
}

// Parse reads a model from the bytes of a safetensors file.
func Parse(data []byte) (*Model, error) {
	tensors, meta, err := ParseTensors(data)
	if err != nil {
		return nil, err
	}
	if meta[formatKey] != format {
		return nil, fmt.Errorf("format is %q, want %q", meta[formatKey], format)
	}
	byName := map[string]Tensor{}
	for _, t := range tensors {
		byName[t.Name] = t
	}
	take := func(name string, dims int) (Tensor, error) {
		t, ok := byName[name]
		if !ok || len(t.Shape) != dims {
			return t, fmt.Errorf("tensor %q with %d dimensions is missing", name, dims)
		}
		delete(byName, name)
		return t, nil
	}
	mean, err := take("input.mean", 1)
	if err != nil {
		return nil, err
	}
	scale, err := take("input.scale", 1)
	if err != nil {
		return nil, err
	}
	var layers []Layer
	for i := 0; len(byName) > 0; i++ {
		w, err := take(fmt.Sprintf("layer.%d.weight", i), 2)
		if err != nil {
			return nil, err
		}
		b, err := take(fmt.Sprintf("layer.%d.bias", i), 1)
		if err != nil {
			return nil, err
		}
		layers = append(layers, Layer{In: w.Shape[1], Out: w.Shape[0], Weight: w.Data, Bias: b.Data})
	}
	return New(mean.Data, scale.Data, layers)
}

// Encode is the model as the bytes of a safetensors file, with extra metadata.
func (m *Model) Encode(meta map[string]string) ([]byte, error) {
	all := map[string]string{formatKey: format}
	for k, v := range meta {
		if k != formatKey {
			all[k] = v
		}
	}
	tensors := []Tensor{
		{Name: "input.mean", Shape: []int{len(m.mean)}, Data: m.mean},
		{Name: "input.scale", Shape: []int{len(m.scale)}, Data: m.scale},
	}
	for i, l := range m.layers {
		tensors = append(tensors,
			Tensor{Name: fmt.Sprintf("layer.%d.weight", i), Shape: []int{l.Out, l.In}, Data: l.Weight},
			Tensor{Name: fmt.Sprintf("layer.%d.bias", i), Shape: []int{l.Out}, Data: l.Bias})
	}
	return EncodeTensors(tensors, all)
}

// Inputs is how many numbers the model scores.
func (m *Model) Inputs() int { return len(m.mean) }

// Parameters is how many numbers were trained.
func (m *Model) Parameters() int {
	n := 0
	for _, l := range m.layers {
		n += len(l.Weight) + len(l.Bias)
	}
	return n
}

// Mean is what an input is on average in training; it stands in for one that is
// not there.
func (m *Model) Mean(input int) float32 { return m.mean[input] }

// Scorer scores with a model; it is not safe for use by several goroutines.
type Scorer struct {
	m    *Model
	a, b []float32
}

// NewScorer makes the one allocation that scoring needs.
func (m *Model) NewScorer() *Scorer {
	return &Scorer{m: m, a: make([]float32, m.width), b: make([]float32, m.width)}
}

var errWidth = errors.New("wrong number of inputs")

// Score is the probability, in [0, 1], that x is positive; NaN in gives NaN out.
func (s *Scorer) Score(x []float32) (float32, error) {
	if len(x) != len(s.m.mean) {
		return 0, errWidth
	}
	return s.score(x), nil
}

// Batch scores len(out) rows that lie one after the other in xs.
func (s *Scorer) Batch(out, xs []float32) error {
	n := len(s.m.mean)
	if len(xs) != n*len(out) {
		return errWidth
	}
	for i := range out {
		out[i] = s.score(xs[i*n : (i+1)*n])
	}
	return nil
}

func (s *Scorer) score(x []float32) float32 {
	in, out := s.a, s.b
	for i, v := range x {
		in[i] = float32((v - s.m.mean[i]) * s.m.scale[i])
	}
	last := len(s.m.layers) - 1
	for i := range s.m.layers {
		l := &s.m.layers[i]
		dense(out[:l.Out], in[:l.In], l.Weight, l.Bias)
		if i < last {
			for j, v := range out[:l.Out] {
				if v < 0 { // not max(): NaN must stay NaN
					out[j] = 0
				}
			}
		}
		in, out = out, in
	}
	return float32(1 / (1 + math.Exp(-float64(in[0]))))
}

// dense keeps four sums so that the products do not wait for each other. The
// conversions forbid fused multiply-add, which only some CPUs have.
func dense(out, in, weight, bias []float32) {
	for j := range out {
		row := weight[j*len(in) : (j+1)*len(in)]
		var s0, s1, s2, s3 float32
		i := 0
		for ; i+4 <= len(in) && i+4 <= len(row); i += 4 {
			s0 += float32(in[i] * row[i])
			s1 += float32(in[i+1] * row[i+1])
			s2 += float32(in[i+2] * row[i+2])
			s3 += float32(in[i+3] * row[i+3])
		}
		for ; i < len(in) && i < len(row); i++ {
			s0 += float32(in[i] * row[i])
		}
		out[j] = s0 + s1 + s2 + s3 + bias[j]
	}
}
