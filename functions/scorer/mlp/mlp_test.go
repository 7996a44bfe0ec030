package mlp_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// xor is the smallest network that needs its hidden layer: score > 0.5 exactly
// when one of two inputs is 1 and the other 0.
func xor(t testing.TB) *mlp.Model {
	t.Helper()
	m, err := mlp.New([]float32{0, 0}, []float32{1, 1}, []mlp.Layer{
		{In: 2, Out: 2, Weight: []float32{1, 1, 1, 1}, Bias: []float32{0, -1}},
		{In: 2, Out: 1, Weight: []float32{8, -16}, Bias: []float32{-4}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func random(t testing.TB, sizes ...int) *mlp.Model {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	fill := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	var layers []mlp.Layer
	for i := 1; i < len(sizes); i++ {
		layers = append(layers, mlp.Layer{In: sizes[i-1], Out: sizes[i], Weight: fill(sizes[i-1] * sizes[i]), Bias: fill(sizes[i])})
	}
	m, err := mlp.New(fill(sizes[0]), fill(sizes[0]), layers)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestScoresAreWhatTheWeightsSay(t *testing.T) {
	t.Parallel()
	s := xor(t).NewScorer()
	for _, c := range []struct{ a, b, z float32 }{{0, 0, -4}, {1, 0, 4}, {0, 1, 4}, {1, 1, -4}} {
		got, err := s.Score([]float32{c.a, c.b})
		if want := float32(1 / (1 + math.Exp(-float64(c.z)))); err != nil || got != want {
			t.Errorf("xor(%g, %g) = %g %v, want %g", c.a, c.b, got, err, want)
		}
	}
	nan := float32(math.NaN())
	if got, _ := s.Score([]float32{nan, 1}); got == got {
		t.Errorf("NaN in gives %g out", got)
	}
	if _, err := s.Score([]float32{1}); err == nil {
		t.Error("one input of two was scored")
	}
	if err := s.Batch(make([]float32, 2), make([]float32, 3)); err == nil {
		t.Error("a batch of the wrong size was scored")
	}
}

func TestABatchScoresAsItsRows(t *testing.T) {
	t.Parallel()
	s := random(t, 5, 7, 3, 1).NewScorer()
	xs := make([]float32, 5*9)
	for i := range xs {
		xs[i] = float32(i) / 10
	}
	out := make([]float32, 9)
	if err := s.Batch(out, xs); err != nil {
		t.Fatal(err)
	}
	for i, got := range out {
		if want, _ := s.Score(xs[5*i : 5*i+5]); got != want {
			t.Errorf("row %d: %g alone, %g in the batch", i, want, got)
		}
	}
}

func TestAModelSurvivesItsFile(t *testing.T) {
	t.Parallel()
	m := random(t, 6, 4, 1)
	data, err := m.Encode(map[string]string{"version": "1"})
	if err != nil {
		t.Fatal(err)
	}
	back, err := mlp.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := back.Encode(map[string]string{"version": "1"})
	if !cmp.Equal(data, again) {
		t.Error("encode, parse, encode gives other bytes")
	}
	if back.Inputs() != 6 || back.Parameters() != 6*4+4+4+1 {
		t.Errorf("%d inputs, %d parameters", back.Inputs(), back.Parameters())
	}
}

// file builds a safetensors file from a header and a body length.
func file(header string, body int) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), make([]byte, body)...)
}

func TestMalformedFilesAreRefused(t *testing.T) {
	t.Parallel()
	ok := `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`
	if _, _, err := mlp.ParseTensors(file(ok, 8)); err != nil {
		t.Fatalf("the good file: %v", err)
	}
	for name, data := range map[string][]byte{
		"empty":               nil,
		"length beyond file":  file(ok, 8)[:20],
		"length overflows":    append([]byte{255, 255, 255, 255, 255, 255, 255, 255}, ok...),
		"not an object":       file(`[]`, 0),
		"leading space":       file(" "+ok, 8),
		"trailing bytes":      file(ok, 9),
		"data cut short":      file(ok, 7),
		"second value":        file(ok+"{}", 8),
		"repeated name":       file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"repeated metadata":   file(`{"__metadata__":{},"__metadata__":{},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8),
		"metadata number":     file(`{"__metadata__":{"k":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8),
		"unknown field":       file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}`, 8),
		"other type":          file(`{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`, 8),
		"shape and size":      file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8),
		"zero dimension":      file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, 0),
		"shape overflows":     file(`{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}`, 0),
		"negative offset":     file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`, 8),
		"hole":                file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"overlap":             file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
		"header is not UTF-8": file("{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
	} {
		if _, _, err := mlp.ParseTensors(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestModelsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	inf := float32(math.Inf(1))
	one := []float32{1}
	for name, layers := range map[string][]mlp.Layer{
		"no layer":     nil,
		"wrong width":  {{In: 2, Out: 1, Weight: []float32{1, 1}, Bias: one}},
		"two outputs":  {{In: 1, Out: 2, Weight: []float32{1, 1}, Bias: []float32{1, 1}}},
		"not finite":   {{In: 1, Out: 1, Weight: []float32{inf}, Bias: one}},
		"missing bias": {{In: 1, Out: 1, Weight: one}},
	} {
		if _, err := mlp.New(one, one, layers); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

var config = mlp.Config{
	Schema: 1, Threshold: 0.5, Channels: []string{"a", "b"}, Transform: []mlp.Transform{mlp.None, mlp.None},
	Inputs: map[string][]int{"whole": {0, 1}, "half": {0, mlp.Missing}, "beyond": {0, 1}},
}

func pipeline(t testing.TB, c mlp.Config) *mlp.Pipeline {
	t.Helper()
	p, err := mlp.NewPipeline(xor(t), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestThePipelineFeedsInputsByRegime(t *testing.T) {
	t.Parallel()
	p := pipeline(t, config)
	for _, c := range []struct {
		s    mlp.Sample
		want bool
		err  error
	}{
		{mlp.Sample{Regime: "whole", Values: []float32{1, 0}}, true, nil},
		{mlp.Sample{Regime: "whole", Values: []float32{1, 1}}, false, nil},
		{mlp.Sample{Regime: "half", Values: []float32{1}}, true, nil}, // the mean, 0, stands in
		{mlp.Sample{Regime: "other", Values: []float32{1}}, false, mlp.ErrRegime},
	} {
		got, err := p.Fork().Score(c.s)
		if got.Positive != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v: %+v %v, want %v %v", c.s, got, err, c.want, c.err)
		}
	}
	logs := config
	logs.Transform = []mlp.Transform{mlp.Log, mlp.None}
	if _, err := pipeline(t, logs).Score(mlp.Sample{Regime: "whole", Values: []float32{-1, 0}}); !errors.Is(err, mlp.ErrNotFinite) {
		t.Errorf("the logarithm of a negative value: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a table that reaches beyond the sample did not panic")
		}
	}()
	p.Score(mlp.Sample{Regime: "beyond", Values: []float32{1}})
}

func TestScoringAllocatesNothing(t *testing.T) {
	p := pipeline(t, config)
	s := mlp.Sample{Regime: "whole", Values: []float32{1, 0}}
	if n := testing.AllocsPerRun(100, func() { p.Score(s) }); n != 0 {
		t.Errorf("%g allocations a score", n)
	}
}

func TestAConfigThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mlp.Config){
		"transforms":    func(c *mlp.Config) { c.Transform = c.Transform[:1] },
		"no transform":  func(c *mlp.Config) { c.Transform = []mlp.Transform{"sqrt", mlp.None} },
		"short table":   func(c *mlp.Config) { c.Inputs = map[string][]int{"whole": {0}} },
		"beyond":        func(c *mlp.Config) { c.Inputs = map[string][]int{"whole": {0, 2}} },
		"below missing": func(c *mlp.Config) { c.Inputs = map[string][]int{"whole": {0, -2}} },
	} {
		c := config
		change(&c)
		if _, err := mlp.NewPipeline(xor(t), c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, raw := range []string{"", "{}", `{"schema":2,"threshold":0.5}`, `{"schema":1,"threshold":1}`, `{"schema":1,"threshold":0.5,"x":1}`, `{"schema":1,"threshold":0.5}{}`} {
		if _, err := mlp.ParseConfig([]byte(raw)); err == nil {
			t.Errorf("config %q was accepted", raw)
		}
	}
}

// release writes a release's folder and returns it.
func release(t *testing.T, golden string) string {
	t.Helper()
	dir := t.TempDir()
	model, err := xor(t).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	conf, _ := json.Marshal(config)
	for name, data := range map[string][]byte{mlp.ModelFile: model, mlp.ConfigFile: conf, mlp.GoldenFile: []byte(golden)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheSelfTestComparesWithTheGoldenScores(t *testing.T) {
	t.Parallel()
	golden := func(score string) string {
		return `{"tolerance":0.001,"cases":[{"sample":{"regime":"whole","values":[1,0]},"score":` + score + `}]}`
	}
	if err := mlp.SelfTest(release(t, golden("0.982"))); err != nil {
		t.Errorf("the right score: %v", err)
	}
	for _, bad := range []string{golden("0.9"), "", `{"tolerance":0.1}`, strings.Replace(golden("0.982"), "whole", "other", 1)} {
		if err := mlp.SelfTest(release(t, bad)); !fault.Is(err, fault.Invalid) {
			t.Errorf("golden %q: %v, want it refused", bad, err)
		}
	}
	if err := mlp.SelfTest(t.TempDir()); !fault.Is(err, fault.Invalid) {
		t.Errorf("an empty folder: %v", err)
	}
}

// FuzzParseTensors: whatever is accepted can be written and read to the same.
func FuzzParseTensors(f *testing.F) {
	data, err := xor(f).Encode(map[string]string{"k": "v"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(file(`{}`, 0))
	f.Add(file(`{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}  `, 8))
	f.Fuzz(func(t *testing.T, data []byte) {
		tensors, meta, err := mlp.ParseTensors(data)
		if err != nil {
			return
		}
		again, err := mlp.EncodeTensors(tensors, meta)
		if err != nil {
			t.Fatalf("encode what was parsed: %v", err)
		}
		tensors2, meta2, err := mlp.ParseTensors(again)
		if err != nil || len(meta) != len(meta2) || len(tensors) != len(tensors2) {
			t.Fatalf("parse what was encoded: %v", err)
		}
		third, err := mlp.EncodeTensors(tensors2, meta2)
		if err != nil || string(again) != string(third) {
			t.Fatalf("the second encoding differs: %v", err)
		}
	})
}

func BenchmarkScore(b *testing.B) {
	s := random(b, 12, 32, 16, 1).NewScorer()
	x := make([]float32, 12)
	b.ReportAllocs()
	for b.Loop() {
		s.Score(x)
	}
}

func BenchmarkBatch(b *testing.B) {
	s := random(b, 12, 32, 16, 1).NewScorer()
	xs, out := make([]float32, 12*256), make([]float32, 256)
	b.ReportAllocs()
	for b.Loop() {
		s.Batch(out, xs)
	}
}
