package delta_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/delta"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

var kinds = []string{"fp32", "fp64", "bf16", "fp16", "int8", "q8_0", "q4_0"}

// draw makes a frame and its base, of a few pieces of any kind: tensors,
// noise, runs of one byte, and odd bytes between them.
func draw(t *rapid.T) pair {
	var p pair
	for range rapid.IntRange(1, 4).Draw(t, "pieces") {
		seed := rapid.Uint64().Draw(t, "seed")
		switch kind := rapid.SampledFrom(append(kinds, "noise", "run", "odd", "odd")).Draw(t, "kind"); kind {
		case "odd":
			b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes")
			p.base, p.plain = append(p.base, b...), append(p.plain, b...)
		case "noise":
			n := rapid.IntRange(0, 5000).Draw(t, "bytes")
			w := weights("fp64", n/8+1, 1<<40, seed)
			p.base, p.plain = append(p.base, w.base...), append(p.plain, w.plain...)
		case "run":
			n := rapid.IntRange(0, 300_000).Draw(t, "bytes")
			p.base = append(p.base, bytes.Repeat([]byte{byte(seed)}, n)...)
			p.plain = append(p.plain, bytes.Repeat([]byte{byte(seed >> 8)}, n)...)
		default:
			step := int64(1) << rapid.IntRange(0, 20).Draw(t, "step")
			w := weights(kind, rapid.IntRange(0, 20_000).Draw(t, "elements"), step, seed)
			p.base, p.plain = append(p.base, w.base...), append(p.plain, w.plain...)
		}
	}
	return p
}

// Law: what goes in comes out, nothing else is written, and neither a base nor
// the codec itself costs more than a byte per MiB.
func TestRoundTripNeverLarger(t *testing.T) {
	t.Parallel()
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	rapid.Check(t, func(t *rapid.T) {
		p := draw(t)
		blocks := (len(p.plain) + 1<<20 - 1) >> 20
		alone := enc.Encode(nil, p.plain, nil)
		based := enc.Encode([]byte("before"), p.plain, p.base)[len("before"):]
		if len(alone) > len(p.plain)+blocks {
			t.Fatalf("%d bytes became %d", len(p.plain), len(alone))
		}
		if len(based) > len(alone)+blocks {
			t.Fatalf("%d bytes without a base, %d with", len(alone), len(based))
		}
		roundTrip(t, dec, p.plain, alone, nil)
		roundTrip(t, dec, p.plain, based, p.base)
	})
}

func roundTrip(t interface{ Fatalf(string, ...any) }, dec *delta.Decoder, plain, packed, base []byte) {
	guarded := bytes.Repeat([]byte{0xa5}, len(plain)+128)
	keptPacked, keptBase := bytes.Clone(packed), bytes.Clone(base)
	if err := dec.Decode(guarded[64:64+len(plain)], packed, base); err != nil {
		t.Fatalf("decode: %v", err)
	}
	if !bytes.Equal(guarded[64:64+len(plain)], plain) {
		t.Fatalf("decoded other bytes")
	}
	for i := range 64 {
		if guarded[i] != 0xa5 || guarded[64+len(plain)+i] != 0xa5 {
			t.Fatalf("wrote outside of dst")
		}
	}
	if !bytes.Equal(packed, keptPacked) || !bytes.Equal(base, keptBase) {
		t.Fatalf("wrote to its input")
	}
}

// Several blocks, a tensor that begins anywhere, and another after it.
func TestBlocksOfManyTensors(t *testing.T) {
	t.Parallel()
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	for _, kind := range kinds {
		var p pair
		for i, n := range []int{200_000, 32, 300_000} {
			w := weights(kind, n, 40, uint64(i))
			odd := []byte("odd")[:i]
			p.base = append(append(p.base, odd...), w.base...)
			p.plain = append(append(p.plain, odd...), w.plain...)
		}
		packed := enc.Encode(nil, p.plain, p.base)
		roundTrip(t, dec, p.plain, packed, p.base)
		if len(packed) > len(p.plain)/2 {
			t.Errorf("%s: an update of %d bytes became %d", kind, len(p.plain), len(packed))
		}
	}
}

// A tensor shifted by a few bytes packs as well as an aligned one.
func TestFindsMisalignedTensors(t *testing.T) {
	t.Parallel()
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	for _, kind := range kinds {
		w := weights(kind, 50_000, 40, 3)
		aligned := len(enc.Encode(nil, w.plain, w.base))
		for shift := 1; shift < 4; shift++ {
			odd := []byte{1, 2, 3}[:shift]
			p := pair{append(bytes.Clone(odd), w.base...), append(bytes.Clone(odd), w.plain...)}
			packed := enc.Encode(nil, p.plain, p.base)
			roundTrip(t, dec, p.plain, packed, p.base)
			if len(packed) > aligned+aligned/30+64 {
				t.Errorf("%s: %d bytes, shifted by %d %d", kind, aligned, shift, len(packed))
			}
		}
	}
}

// A frame that is not one is refused as such.
func TestRefusesWhatIsNoFrame(t *testing.T) {
	t.Parallel()
	w := weights("bf16", 4096, 40, 1)
	packed := delta.NewEncoder().Encode(nil, w.plain, w.base)
	dst := make([]byte, len(w.plain))
	for name, c := range map[string]struct{ dst, packed, base []byte }{
		"empty":                    {dst, nil, w.base},
		"truncated":                {dst, packed[:len(packed)-1], w.base},
		"trailing byte":            {dst, append(bytes.Clone(packed), 0), w.base},
		"no base":                  {dst, packed, nil},
		"base too short":           {dst, packed, w.base[:len(w.base)-1]},
		"another length":           {dst[:len(dst)-2], packed, w.base[:len(dst)-2]},
		"unknown mode":             {dst, []byte{6 << 5}, w.base},
		"copy without base":        {dst, []byte{1 << 5}, nil},
		"part longer than is left": {dst, []byte{7 << 5, 0, 0, 0xff, 1 << 5}, w.base},
		"part of no bytes":         {dst, []byte{7 << 5, 0, 0, 0, 1 << 5}, w.base},
	} {
		if err := delta.NewDecoder().Decode(c.dst, c.packed, c.base); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// In steady state neither way allocates.
func TestKeepsItsMemory(t *testing.T) {
	pairs := []pair{weights("bf16", 40_000, 40, 1), weights("q4_0", 40_000, 40, 1), {nil, weights("fp32", 9000, 40, 1).plain}}
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	var packed []byte
	dst := make([]byte, 1<<20)
	allocs := testing.AllocsPerRun(3, func() { // the first run does not count
		for _, p := range pairs {
			packed = enc.Encode(packed[:0], p.plain, p.base)
			if err := dec.Decode(dst[:len(p.plain)], packed, p.base); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
