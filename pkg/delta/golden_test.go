package delta_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/delta"
)

var update = flag.Bool("update", false, "write the golden frames anew: a new format")

// golden are frames of every mode. The plain bytes are made by weights.
func golden() map[string]pair {
	cases := map[string]pair{
		"empty":     {},
		"copy":      weights("bf16", 500, 0, 1),
		"raw":       {plain: []byte("too short to pack")},
		"self-bf16": {plain: weights("bf16", 4000, 40, 1).plain},
		"self-fp32": {plain: weights("fp32", 4000, 40, 1).plain},
		"self-int8": {plain: weights("int8", 4000, 40, 1).plain},
	}
	for _, kind := range kinds {
		cases["delta-"+kind] = weights(kind, 4000, 400, 2)
	}
	far := weights("bf16", 4000, 40000, 3)
	cases["delta-far"] = pair{append([]byte("odd"), far.base...), append([]byte("even")[:3], far.plain...)}
	var parts pair
	for i := range 2 {
		w := weights("q4_0", 64_000, 400, uint64(i))
		parts.base = append(append(parts.base, "shift"[:i*5]...), w.base...)
		parts.plain = append(append(parts.plain, "shift"[:i*5]...), w.plain...)
	}
	cases["parts"] = parts
	return cases
}

// The format is frozen: today's encoder writes the bytes in testdata, and the
// decoder reads them. An encoder that packs better may change the files, a
// decoder that cannot read the old ones is a new codec.
func TestGoldenFrames(t *testing.T) {
	t.Parallel()
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	for name, p := range golden() {
		path := filepath.Join("testdata", name+".frame")
		packed := enc.Encode(nil, p.plain, p.base)
		if *update {
			if err := os.WriteFile(path, packed, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(packed, want) {
			t.Errorf("%s: the encoder writes other bytes", name)
		}
		got := make([]byte, len(p.plain))
		if err := dec.Decode(got, want, p.base); err != nil || !bytes.Equal(got, p.plain) {
			t.Errorf("%s: the decoder reads other bytes (%v)", name, err)
		}
	}
}

// Whatever arrives, Decode ends with an error or with bytes, and writes dst
// alone.
func FuzzDecode(f *testing.F) {
	for _, p := range golden() {
		packed := delta.NewEncoder().Encode(nil, p.plain, p.base)
		if len(packed) > 20_000 {
			packed = packed[:20_000]
		}
		f.Add(packed, p.base, len(p.plain), p.base != nil)
	}
	dec := delta.NewDecoder()
	f.Fuzz(func(t *testing.T, packed, base []byte, n int, based bool) {
		if n < 0 || n > 1<<20 {
			return
		}
		if !based {
			base = nil
		} else {
			base = append(make([]byte, 0, n), base[:min(len(base), n)]...)[:n]
		}
		whole := bytes.Repeat([]byte{0xa5}, n+64)
		_ = dec.Decode(whole[32:32+n:32+n], packed, base)
		for i := range 32 {
			if whole[i] != 0xa5 || whole[32+n+i] != 0xa5 {
				t.Fatal("wrote outside of dst")
			}
		}
	})
}

// Any two byte strings of one length make a pair.
func FuzzRoundTrip(f *testing.F) {
	for _, p := range golden() {
		f.Add(p.plain[:min(len(p.plain), 9000)], p.base[:min(len(p.base), 9000)])
	}
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	f.Fuzz(func(t *testing.T, plain, base []byte) {
		if len(base) != 0 {
			n := min(len(plain), len(base))
			plain, base = plain[:n], base[:n]
		} else {
			base = nil
		}
		packed := enc.Encode(nil, plain, base)
		if len(packed) > len(plain)+1+len(plain)>>20 {
			t.Fatalf("%d bytes became %d", len(plain), len(packed))
		}
		roundTrip(t, dec, plain, packed, base)
	})
}

// What one core does, per kind: an update of a typical fine-tune and, without
// a base, the whole.
func BenchmarkFrame(b *testing.B) {
	for _, c := range append([]string{"full"}, kinds...) {
		p := weights(c, 1<<20, 40, 1)
		if c == "full" {
			p = pair{plain: weights("bf16", 1<<20, 40, 1).plain}
		}
		enc, dec := delta.NewEncoder(), delta.NewDecoder()
		packed := enc.Encode(nil, p.plain, p.base)
		b.Run("encode/"+c, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(p.plain)))
			for b.Loop() {
				packed = enc.Encode(packed[:0], p.plain, p.base)
			}
			b.ReportMetric(100*float64(len(packed))/float64(len(p.plain)), "%packed")
		})
		b.Run("decode/"+c, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(p.plain)))
			dst := make([]byte, len(p.plain))
			for b.Loop() {
				if err := dec.Decode(dst, packed, p.base); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
