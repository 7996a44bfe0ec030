package delivery

import (
	"slices"

	"github.com/modelfleet/modelfleet/pkg/artifact"
)

// Kind is a kind of source, in the order of preference at equal price.
type Kind uint8

// The kinds of source.
const (
	Copy  Kind = iota // a file that is here already
	Delta             // the difference to a file that is here
	Peer              // a neighbour
	Full              // the compressed object
	Raw               // the plain object
)

// String is the kind's name.
func (k Kind) String() string {
	names := [...]string{"copy", "delta", "peer", "full", "raw"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// MarshalText is the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Need is one file of which frames are wanted.
type Need struct {
	Size      int64
	FrameSize int64
	Wanted    []bool // by frame
}

// FrameLen is the plain length of frame i.
func (n Need) FrameLen(i int) int64 { return min(n.FrameSize, n.Size-int64(i)*n.FrameSize) }

// Offer is what one source has of one file.
type Offer struct {
	Kind   Kind
	File   int    // index into the needs
	Name   string // object key, or path of a file that is here
	Frames []Span // where each frame lies; Length 0: the source lacks it

	index *artifact.Index // how the frames are packed; nil: they are plain
	base  string          // path of the file that a delta is a difference to
}

// codec is how frame i is packed.
func (o Offer) codec(i int) artifact.Codec {
	if o.index == nil {
		return artifact.Plain
	}
	return o.index.Frames[i].Codec
}

// Span is a range of bytes of a source.
type Span struct{ Offset, Length int64 }

// Rates are the member's own measured rates, in bytes a second.
type Rates struct {
	Link   float64 // from the bucket, all streams together
	Peer   float64 // from neighbours
	Disk   float64 // copying here
	Unpack float64 // plain bytes out of full objects, all cores together
	Apply  float64 // plain bytes out of deltas, all cores together
}

// Fetch is one range of one offer: whole frames, adjacent in the file and in
// the source.
type Fetch struct {
	Offer        int // index into the offers
	File         int
	First, Count int // frames
	Span         Span
}

// FrameID names a frame.
type FrameID struct{ File, Frame int }

// Plan says where each wanted frame is taken from and in which ranges: for each
// frame the source with the least time at the given rates, adjacent frames of
// one source joined up to maxSpan bytes; neighbours are asked for one frame at a
// time, since each has another owner. Fetches come in the order to start
// them: copies first, they free the link; then by file and position. lacking
// are the wanted frames that no source has. Plan is pure.
func Plan(needs []Need, offers []Offer, r Rates, maxSpan int64) (fetches []Fetch, lacking []FrameID) {
	byFile := make([][]int, len(needs))
	for i, o := range offers {
		byFile[o.File] = append(byFile[o.File], i)
	}
	for file, n := range needs {
		var last *Fetch // the fetch that the next frame may be joined to
		for frame, wanted := range n.Wanted {
			if !wanted {
				last = nil
				continue
			}
			best := cheapest(offers, byFile[file], frame, n.FrameLen(frame), r)
			if best < 0 {
				lacking, last = append(lacking, FrameID{file, frame}), nil
				continue
			}
			s := offers[best].Frames[frame]
			if last != nil && last.Offer == best && offers[best].Kind != Peer &&
				s.Offset == last.Span.Offset+last.Span.Length && last.Span.Length+s.Length <= maxSpan {
				last.Count++
				last.Span.Length += s.Length
				continue
			}
			fetches = append(fetches, Fetch{Offer: best, File: file, First: frame, Count: 1, Span: s})
			last = &fetches[len(fetches)-1]
		}
	}
	slices.SortStableFunc(fetches, func(a, b Fetch) int {
		return copyRank(offers[a.Offer].Kind) - copyRank(offers[b.Offer].Kind)
	})
	return fetches, lacking
}

func copyRank(k Kind) int {
	if k == Copy {
		return 0
	}
	return 1
}

// cheapest is the offer with the least price for a frame; at equal price the
// kind that comes first, then the offer that does. -1: none has it. A frame that
// neighbours offer is not taken out of the bucket as long as they do: the link
// is the site's, and each of them would take it over the same one.
func cheapest(offers []Offer, candidates []int, frame int, plain int64, r Rates) int {
	has := func(o Offer) bool { return frame < len(o.Frames) && o.Frames[frame].Length > 0 }
	shared := slices.ContainsFunc(candidates, func(i int) bool { return offers[i].Kind == Peer && has(offers[i]) })
	best, price := -1, 0.0
	for _, i := range candidates {
		o := offers[i]
		if !has(o) || shared && o.Kind != Copy && o.Kind != Peer {
			continue
		}
		p := r.price(o.Kind, o.Frames[frame].Length, plain)
		if best < 0 || p < price || (p == price && o.Kind < offers[best].Kind) {
			best, price = i, p
		}
	}
	return best
}

// price is the time a frame takes: transfer and decoding overlap, so the slower
// of the two counts.
func (r Rates) price(k Kind, packed, plain int64) float64 {
	link := float64(packed) / r.Link
	switch k {
	case Copy:
		return float64(packed) / r.Disk
	case Peer:
		return float64(packed) / r.Peer
	case Delta:
		return max(link, float64(plain)/r.Apply)
	case Full:
		return max(link, float64(plain)/r.Unpack)
	default:
		return link
	}
}
