package delta

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Every layout brings every byte back, whatever the detector would have chosen:
// scales that change sign, other bytes, both kinds of quants, any phase.
func TestEveryLayoutComesBack(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	for i := range layouts {
		l := &layouts[i]
		n := 60*l.period + 17
		base, plain := make([]byte, n), make([]byte, n)
		for k := range base {
			base[k] = byte(r.Uint32())
			plain[k] = base[k]
			if k/l.period%3 > 0 && r.IntN(4) == 0 {
				plain[k] += byte(r.Uint32()) >> r.IntN(8)
			}
		}
		h := head{mode: modeStride, layout: i, phase: 5, plain: n}
		e, d := NewEncoder(), NewDecoder()
		payload := e.payload(nil, plain, base, h)
		h.packed = len(payload)
		packed := append(h.append(nil, n), payload...)
		got := make([]byte, n)
		if err := d.Decode(got, packed, base); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("layout %d of period %d: %v", i, l.period, err)
		}
		for cut := range 40 { // and a damaged one ends, one way or another
			bad := bytes.Clone(packed)
			bad[5+r.IntN(len(bad)-5)] ^= byte(1 + cut)
			_ = d.Decode(got, bad, base)
		}
	}
}
