package artifact_test

import (
	"bytes"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/artifact"
)

// BenchmarkPack packs one frame, as a publisher does on each of its cores.
func BenchmarkPack(b *testing.B) {
	p, err := artifact.NewPacker()
	if err != nil {
		b.Fatal(err)
	}
	w := bfloats(2<<20, 1)
	for name, c := range map[string]struct{ plain, base []byte }{
		"weights": {w, nil},
		"text":    {bytes.Repeat([]byte(`{"token": 4711, "text": "orchard"}, `), 1<<17)[:4<<20], nil},
		"noise":   {noise(4<<20, 2), nil},
		"trained": {nudged(w), w},
		"same":    {w, w},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(c.plain)))
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				if c.base == nil {
					out, _ = p.Pack(out[:0], c.plain)
				} else {
					out, _ = p.PackAgainst(out[:0], c.plain, c.base, int64(len(c.plain)))
				}
			}
			b.ReportMetric(100*float64(len(out))/float64(len(c.plain)), "%")
		})
	}
}
