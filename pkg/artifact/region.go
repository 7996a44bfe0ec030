package artifact

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Region says that the bytes of a file from New on resemble those of its base
// from Base on, for Length bytes.
type Region struct{ New, Length, Base int64 }

// MaxRegions bounds an index's regions.
const MaxRegions = 1 << 16

const (
	baseHead     = 48
	regionRecord = 24
)

// Normal puts regions into the one form an index takes: ordered by New, within
// both files, none empty, none overlapping an earlier one, continued ones
// joined, and the longest [MaxRegions] of them.
func Normal(regions []Region, size, baseSize int64) []Region {
	rs := slices.Clone(regions)
	slices.SortStableFunc(rs, func(a, b Region) int { return cmp.Compare(a.New, b.New) })
	var out []Region
	end := int64(0)
	for _, r := range rs {
		if cut := max(end-r.New, -r.Base); cut > 0 {
			r.New, r.Base, r.Length = r.New+cut, r.Base+cut, r.Length-cut
		}
		r.Length = min(r.Length, size-r.New, baseSize-r.Base)
		if r.Length <= 0 {
			continue
		}
		end = r.New + r.Length
		if n := len(out); n > 0 && out[n-1].continues(r) {
			out[n-1].Length += r.Length
			continue
		}
		out = append(out, r)
	}
	if len(out) > MaxRegions {
		slices.SortStableFunc(out, func(a, b Region) int { return cmp.Compare(b.Length, a.Length) })
		out = out[:MaxRegions]
		slices.SortFunc(out, func(a, b Region) int { return cmp.Compare(a.New, b.New) })
	}
	return out
}

// continues reports whether b begins where r ends, in both files.
func (r Region) continues(b Region) bool {
	return r.New+r.Length == b.New && r.Base+r.Length == b.Base
}

// BaseSpans is which bytes of the base frame i is packed against, with New
// counted from the frame's start; where no span lies the base is zeros. It is
// empty for a frame that stands alone.
func (x Index) BaseSpans(i int) []Region {
	if x.Frames[i].Codec != TensorBase {
		return nil
	}
	return spans(x.Regions, int64(i)*x.FrameSize, x.FrameLen(i))
}

// spans cuts regions to length bytes from start on.
func spans(regions []Region, start, length int64) []Region {
	var out []Region
	first, _ := slices.BinarySearchFunc(regions, start, func(r Region, at int64) int {
		return cmp.Compare(r.New+r.Length-1, at)
	})
	for _, r := range regions[first:] {
		if r.New >= start+length {
			break
		}
		if cut := start - r.New; cut > 0 {
			r.New, r.Base, r.Length = r.New+cut, r.Base+cut, r.Length-cut
		}
		r.New -= start
		r.Length = min(r.Length, length-r.New)
		out = append(out, r)
	}
	return out
}

// appendBase appends what a delta's index holds after its frames.
func (x Index) appendBase(b []byte) []byte {
	b = append(b, x.Base[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(x.BaseSize))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.Regions)))
	b = append(b, 0, 0, 0, 0)
	for _, r := range x.Regions {
		for _, v := range []int64{r.New, r.Length, r.Base} {
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		}
	}
	return b
}

func (x *Index) parseBase(b []byte) error {
	if len(b) < baseHead {
		return fmt.Errorf("%d bytes about its base", len(b))
	}
	x.Base, x.BaseSize = fleet.Digest(b[:32]), int64(binary.LittleEndian.Uint64(b[32:]))
	count := binary.LittleEndian.Uint32(b[40:])
	if x.BaseSize < 0 || binary.LittleEndian.Uint32(b[44:]) != 0 || count > MaxRegions || len(b) != baseHead+regionRecord*int(count) {
		return fmt.Errorf("%d bytes for %d regions of a base of %d", len(b), count, x.BaseSize)
	}
	for i := range int(count) {
		at := b[baseHead+regionRecord*i:]
		u := func(n int) int64 { return int64(binary.LittleEndian.Uint64(at[8*n:])) }
		r := Region{New: u(0), Length: u(1), Base: u(2)}
		switch {
		case r.Length <= 0 || r.New < 0 || r.Base < 0 || r.New > x.Size-r.Length || r.Base > x.BaseSize-r.Length:
			return fmt.Errorf("region %d: %d bytes from %d, at %d of the base", i, r.Length, r.New, r.Base)
		case i > 0 && (r.New < x.Regions[i-1].New+x.Regions[i-1].Length || x.Regions[i-1].continues(r)):
			return fmt.Errorf("region %d: not after the one before", i)
		}
		x.Regions = append(x.Regions, r)
	}
	for i, f := range x.Frames {
		if f.Codec == TensorBase && len(x.BaseSpans(i)) == 0 {
			return fmt.Errorf("frame %d: no region of the base", i)
		}
	}
	return nil
}
