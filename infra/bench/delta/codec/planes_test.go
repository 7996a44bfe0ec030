package codec

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestPlanesComeBack(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	some := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for _, width := range []int{1, 2, 4} {
		for _, c := range []struct{ next, base int }{{0, 10}, {1, 0}, {1001, 1001}, {1003, 990}, {990, 1003}} {
			next, base := some(c.next), some(c.base)
			packed, err := EncodePlanes(next, base, width)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := DecodePlanes(packed, base, width); err != nil || !bytes.Equal(back, next) {
				t.Errorf("width %d, %d bytes over %d: %d came back, %v", width, c.next, c.base, len(back), err)
			}
		}
	}
}

func TestPackedPlanesThatEndEarlyAreRefused(t *testing.T) {
	t.Parallel()
	packed, err := EncodePlanes([]byte("some weights"), []byte("same weights"), 2)
	if err != nil {
		t.Fatal(err)
	}
	for n := range packed {
		if _, err := DecodePlanes(packed[:n], []byte("same weights"), 2); err == nil {
			t.Errorf("%d bytes of %d were decoded", n, len(packed))
		}
	}
}
