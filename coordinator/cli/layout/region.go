package layout

import (
	"cmp"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/artifact"
)

// Regions lays the tensors of a new file beside those of its base: by name,
// then, for names that only one of them has, in order by equal length. Where a
// tensor grew, its beginnings are paired. What lies before, between and behind
// paired tensors goes along with its neighbour. Nothing comes of files of which
// one has no known layout, or that share no tensor.
func Regions(tensors, base []Tensor, size, baseSize int64) []artifact.Region {
	pairs := pair(inOrder(tensors), inOrder(base))
	if len(pairs) == 0 {
		return nil
	}
	var out []artifact.Region
	first := pairs[0]
	if n := min(first.New, first.Base); n > 0 { // the headers
		out = append(out, artifact.Region{Length: n})
	}
	for i, p := range pairs {
		next, nextBase := size, baseSize
		if i+1 < len(pairs) {
			next, nextBase = pairs[i+1].New, pairs[i+1].Base
		}
		// Bytes between tensors that keep their distance are the same padding; what
		// follows the last one follows it in the base as well.
		last := i+1 == len(pairs)
		if end := p.New + p.Length; end <= next && (last || next-end == nextBase-(p.Base+p.Length)) {
			p.Length = next - p.New
		}
		out = append(out, p)
	}
	return artifact.Normal(out, size, baseSize)
}

// inOrder sorts by place.
func inOrder(ts []Tensor) []Tensor {
	ts = slices.Clone(ts)
	slices.SortFunc(ts, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Length, b.Length), cmp.Compare(a.Name, b.Name))
	})
	return ts
}

// pair returns a region for each tensor that has a counterpart, in the order of
// the new file.
func pair(tensors, base []Tensor) []artifact.Region {
	byName := map[string]int{}
	for i, t := range base {
		byName[t.Name] = i
	}
	partner := make([]int, len(tensors))
	used := make([]bool, len(base))
	for i, t := range tensors {
		partner[i] = -1
		if k, ok := byName[t.Name]; ok && !used[k] {
			partner[i], used[k] = k, true
		}
	}
	byLength := map[int64][]int{}
	for k, t := range base {
		if !used[k] {
			byLength[t.Length] = append(byLength[t.Length], k)
		}
	}
	var out []artifact.Region
	for i, t := range tensors {
		k := partner[i]
		if free := byLength[t.Length]; k < 0 && len(free) > 0 {
			k, byLength[t.Length] = free[0], free[1:]
		}
		if k >= 0 {
			out = append(out, artifact.Region{New: t.Offset, Length: min(t.Length, base[k].Length), Base: base[k].Offset})
		}
	}
	return out
}
