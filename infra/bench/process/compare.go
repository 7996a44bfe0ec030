package process

import (
	"cmp"
	"slices"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
)

// Compare gives the median of ours, in seconds, and beside it the median of the
// ratios of each round to the anchor's run of that round; no ratio without theirs.
func Compare(name string, ours, theirs []Run, anchor string, of func(Run) float64) figure.Figure {
	f := figure.Figure{Name: name, Unit: "s"}
	var values, ratios []float64
	for i, r := range ours {
		values = append(values, of(r))
		if i < len(theirs) {
			ratios = append(ratios, of(r)/of(theirs[i]))
		}
	}
	f.Value = figure.Median(values)
	if len(ratios) > 0 {
		f.Anchor, f.Ratio = anchor, figure.Median(ratios)
	}
	return f
}

// Peak is the most memory of any round.
func Peak(name string, runs []Run) figure.Figure {
	most := slices.MaxFunc(runs, func(a, b Run) int { return cmp.Compare(a.RSS, b.RSS) })
	return figure.Figure{Name: name, Value: most.RSS, Unit: "MiB"}
}
