package weights

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// tiny is a whole set in a second.
func tiny() Settings {
	return Settings{Vocab: 200, Width: 32, Context: 4, Hidden: []int{64, 32, 32}, Classes: 4, Batch: 8, Steps: 300, Rate: 3e-3, Seed: 1}
}

func trainTiny(t *testing.T) map[string]Model {
	t.Helper()
	models, err := trainAll(t.Context(), tiny(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return models
}

func TestTheBaseLearns(t *testing.T) {
	t.Parallel()
	s := tiny()
	accuracy, err := newNet(s, s.Seed).fit(t.Context(), newTask(s, s.Seed, 1), schedule{steps: s.Steps, rate: s.Rate, cosine: true})
	if err != nil {
		t.Fatal(err)
	}
	if chance := 1 / float64(s.Classes); accuracy < 1.5*chance {
		t.Errorf("accuracy %.2f after training, by chance it is %.2f", accuracy, chance)
	}
}

// The gradient of a few weights of every layer, against differences of the loss.
func TestGradientsAreThoseOfTheLoss(t *testing.T) {
	t.Parallel()
	s := tiny()
	n := newNet(s, 1)
	data := newTask(s, 1, 1)
	labels := make([]int, s.Batch)
	for i := range labels {
		labels[i] = data.sample(n.tokens[i])
	}
	loss := func() float64 {
		n.forward()
		var sum float64
		for i, label := range labels {
			var all float64
			out := n.layers[len(n.layers)-1].act[i]
			for _, v := range out {
				all += math.Exp(float64(v))
			}
			sum += math.Log(all) - float64(out[label])
		}
		return sum / float64(len(labels))
	}
	n.forward()
	n.loss(labels)
	n.backward()
	for _, p := range n.params() {
		at := 3
		if p == n.embed {
			at += n.tokens[0][0] * s.Width
		}
		const step = 1e-2
		was, want := p.w[at], float64(p.g[at])
		p.w[at] = was + step
		up := loss()
		p.w[at] = was - step
		got := (up - loss()) / (2 * step)
		p.w[at] = was
		if math.Abs(got-want) > 1e-3+0.05*math.Abs(want) {
			t.Errorf("%s[%d]: gradient %.5f, by differences %.5f", p.name, at, want, got)
		}
	}
}

// What an update leaves alone decides what a delta may cost.
func TestCasesChangeWhatTheirNamesSay(t *testing.T) {
	t.Parallel()
	models := trainTiny(t)
	base := models[Base]
	changed := func(name string) (tensors []string, share float64) {
		n := 0
		for i, v := range models[name] {
			before := n
			for j, w := range v.Data {
				if w != base[i].Data[j] {
					n++
				}
			}
			if n > before {
				tensors = append(tensors, v.Name)
			}
		}
		return tensors, float64(n) / float64(base.Parameters())
	}
	if got, _ := changed(HeadOnly); !slices.Equal(got, []string{"layers.3.weight", "layers.3.bias"}) {
		t.Errorf("head only: %v changed", got)
	}
	if got, _ := changed(LoRAMerged); !slices.Equal(got, []string{"layers.0.weight", "layers.1.weight", "layers.2.weight"}) {
		t.Errorf("merged low-rank update: %v changed", got)
	}
	_, short := changed(Tune20)
	_, long := changed(Continued)
	if _, all := changed(Retrain); short == 0 || long < short || all < 0.99 {
		t.Errorf("share changed: 20 steps %.2f, 400 steps %.2f, retraining %.2f", short, long, all)
	}
	if got := models[Adapter].Parameters(); got != 8*(128+64+64+32+32+32) {
		t.Errorf("the adapter has %d weights", got)
	}
}

func TestSettingsGiveTheSameBits(t *testing.T) {
	t.Parallel()
	a, b := trainTiny(t), trainTiny(t)
	for name := range a {
		for _, d := range DTypes() {
			x, err := d.Encode(a[name])
			if err != nil {
				t.Fatal(err)
			}
			if y, err := d.Encode(b[name]); err != nil || !bytes.Equal(x, y) {
				t.Fatalf("%s as %s differs from one training to the next (%v)", name, d, err)
			}
		}
	}
}

func TestTheCacheGivesBackWhatWasTrained(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	lines := 0
	logf := func(string, ...any) { lines++ }
	first, err := Load(t.Context(), tiny(), logf)
	if err != nil {
		t.Fatal(err)
	}
	said := lines
	again, err := Load(t.Context(), tiny(), logf)
	if err != nil || lines != said {
		t.Fatalf("loading again trained again (%v)", err)
	}
	for _, name := range append(Cases(), Base) {
		for i, v := range first.Model(name) {
			w := again.Model(name)[i]
			if v.Name != w.Name || v.Rows != w.Rows || !slices.Equal(v.Data, w.Data) {
				t.Errorf("%s: tensor %s changed in the cache", name, v.Name)
			}
		}
	}
}

func TestTrainingStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := trainAll(ctx, tiny(), t.Logf); err == nil {
		t.Error("training went on after it was cancelled")
	}
}

// A half is the nearest one, whatever the value; a bfloat16 is too.
func TestRoundingIsToTheNearest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := float32(rapid.Float64Range(-1, 1).Draw(t, "v") * math.Pow(2, rapid.Float64Range(-24, 15).Draw(t, "exponent")))
		off := func(w float32) float64 { return math.Abs(float64(w) - float64(v)) }
		h := f16(v)
		for _, other := range []uint16{h - 1, h + 1} {
			if other&0x7c00 != 0x7c00 && other>>15 == h>>15 && off(fromF16(other)) < off(fromF16(h)) {
				t.Fatalf("%g became the half %g, and %g is nearer", v, fromF16(h), fromF16(other))
			}
		}
		b := bf16(v)
		wide := func(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }
		for _, other := range []uint16{b - 1, b + 1} {
			if other>>15 == b>>15 && off(wide(other)) < off(wide(b)) {
				t.Fatalf("%g became the bfloat16 %g, and %g is nearer", v, wide(b), wide(other))
			}
		}
	})
	for h := range uint16(0x7c00) {
		if got := f16(fromF16(h)); got != h {
			t.Fatalf("the half %#x became %#x", h, got)
		}
	}
}

// A block decodes to its weights within half a step of the scale that it holds.
func TestQuantizedBlocksHoldTheirWeights(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	data := make([]float32, 4*block)
	for i := range data[block:] { // the first block is all zeros
		data[block+i] = float32(rng.NormFloat64())
	}
	q8, q4 := appendQ8(nil, data), appendQ4(nil, data)
	if len(q8) != 4*34 || len(q4) != 4*18 {
		t.Fatalf("blocks of %d and %d bytes", len(q8)/4, len(q4)/4)
	}
	for i, v := range data {
		in := i % block
		b8, b4 := q8[i/block*34:], q4[i/block*18:]
		s8 := fromF16(binary.LittleEndian.Uint16(b8))
		if got := s8 * float32(int8(b8[2+in])); math.Abs(float64(got-v)) > float64(s8)*0.51+float64(s8)*0.07 {
			t.Fatalf("Q8_0: weight %d is %g, read back as %g", i, v, got)
		}
		s4 := fromF16(binary.LittleEndian.Uint16(b4))
		nibble := int(b4[2+in%16]>>(in/16*4)&15) - 8
		if got := s4 * float32(nibble); math.Abs(float64(got-v)) > math.Abs(float64(s4))*1.01 {
			t.Fatalf("Q4_0: weight %d is %g, read back as %g", i, v, got)
		}
	}
	q, scales := quantizeRows(Tensor{Rows: 4, Cols: block, Data: data})
	for i, v := range data {
		if got := scales[i/block] * float32(int8(q[i])); math.Abs(float64(got-v)) > float64(scales[i/block])*0.501 {
			t.Fatalf("INT8: weight %d is %g, read back as %g", i, v, got)
		}
	}
}

// tensorsOf reads a safetensors file.
func tensorsOf(t *testing.T, file []byte) map[string][]byte {
	t.Helper()
	n := binary.LittleEndian.Uint64(file)
	if n%8 != 0 {
		t.Errorf("a header of %d bytes: the data is not aligned", n)
	}
	var header map[string]struct {
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(file[8:8+n], &header); err != nil {
		t.Fatal(err)
	}
	tensors := map[string][]byte{}
	for name, h := range header {
		if name != "__metadata__" {
			tensors[name] = file[8+n:][h.Offsets[0]:h.Offsets[1]]
		}
	}
	return tensors
}

func TestSafetensorsHoldEveryTensor(t *testing.T) {
	t.Parallel()
	m := newNet(tiny(), 1).model()
	for d, size := range map[DType]int{F32: 4, BF16: 2, F16: 2, INT8: 1} {
		file, err := d.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		tensors := tensorsOf(t, file)
		for _, v := range m {
			want := size * len(v.Data)
			if d == INT8 && v.Rows == 1 {
				want = 4 * len(v.Data)
			}
			if len(tensors[v.Name]) != want {
				t.Errorf("%s %s: %d bytes, want %d", d, v.Name, len(tensors[v.Name]), want)
			}
		}
	}
	if got, want := tensorsOf(t, must(F32.Encode(m)))["embed.weight"], appendF32(nil, m[0].Data); !bytes.Equal(got, want) {
		t.Error("float32 weights are not written as they are")
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// Tiles hold the model's weights, none in its place and none twice alike.
func TestTilesDoNotRepeat(t *testing.T) {
	t.Parallel()
	m := newNet(tiny(), 1).model()
	const size = 200_000
	var file bytes.Buffer
	if err := WriteTiled(&file, m, size); err != nil {
		t.Fatal(err)
	}
	tensors := tensorsOf(t, file.Bytes())
	total := 0
	for _, b := range tensors {
		total += len(b)
	}
	if total > size || total < size-1024 {
		t.Errorf("tensors of %d bytes, asked for %d", total, size)
	}
	a, b := tensors["tiles.0.embed.weight"], tensors["tiles.1.embed.weight"]
	if bytes.Equal(a[:64], b[:64]) || !slices.Equal(sorted(a), sorted(b)) {
		t.Error("two tiles are not the same weights in different orders")
	}
}

func sorted(b []byte) []uint16 {
	var v []uint16
	for ; len(b) > 0; b = b[2:] {
		v = append(v, binary.LittleEndian.Uint16(b))
	}
	slices.Sort(v)
	return v
}
