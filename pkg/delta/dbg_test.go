package delta

import (
	"fmt"
	"os"
	"testing"
)

func TestDbg(t *testing.T) {
	p := os.Getenv("PAIR")
	if p == "" {
		t.Skip()
	}
	var suffix = os.Getenv("SUF")
	base, _ := os.ReadFile("/tmp/weights/v1." + suffix)
	nw, _ := os.ReadFile("/tmp/weights/" + p + "." + suffix)
	e := NewEncoder()
	tot, hd, ww, bb := 0, 0, 0, 0
	for o := 0; o < len(nw); o += 1 << 20 {
		n := min(o+1<<20, len(nw))
		out := e.Encode(nil, nw[o:n], base[o:n])
		h, _, _ := readHead(out, n-o, true)
		if h.mode == modeDiff {
			fmt.Printf("%d %s w%d p%d len %d header %d words %d bits %d tables %d bins %d ranges %d\n", o>>20, h.mode, h.width, h.phase, len(out), len(e.header.out), 4*len(e.rans.words), len(e.bits.out), len(e.tables), len(e.model.edges)+1, len(e.model.grids[0].ranges))
			hd += len(e.header.out)
			ww += 4 * len(e.rans.words)
			bb += len(e.bits.out)
		} else {
			fmt.Printf("%d %s w%d p%d len %d\n", o>>20, h.mode, h.width, h.phase, len(out))
		}
		tot += len(out)
	}
	fmt.Println("total", tot, float64(tot)/float64(len(nw))*100, "header", hd, "words", ww, "bits", bb)
}
