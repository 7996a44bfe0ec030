package delivery_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/delivery"
)

const testSpan = 1000

// drawn is a random planning problem: files with wanted frames, and sources of
// every kind that have some of them at some price.
type drawn struct {
	needs  []delivery.Need
	offers []delivery.Offer
	rates  delivery.Rates
}

func draw(t *rapid.T) drawn {
	var d drawn
	for range rapid.IntRange(1, 4).Draw(t, "files") {
		frames := rapid.IntRange(1, 12).Draw(t, "frames")
		n := delivery.Need{FrameSize: 100, Size: int64(frames)*100 - rapid.Int64Range(0, 99).Draw(t, "short")}
		n.Wanted = rapid.SliceOfN(rapid.Bool(), frames, frames).Draw(t, "wanted")
		d.needs = append(d.needs, n)
	}
	for range rapid.IntRange(0, 8).Draw(t, "offers") {
		file := rapid.IntRange(0, len(d.needs)-1).Draw(t, "file")
		o := delivery.Offer{File: file, Kind: delivery.Kind(rapid.IntRange(0, 4).Draw(t, "kind"))}
		at := int64(0)
		for range d.needs[file].Wanted {
			n := rapid.Int64Range(0, 120).Draw(t, "length") // 0: lacks it
			o.Frames = append(o.Frames, delivery.Span{Offset: at, Length: n})
			at += n + rapid.Int64Range(0, 1).Draw(t, "gap")
		}
		d.offers = append(d.offers, o)
	}
	rate := rapid.Float64Range(1, 1e9)
	d.rates = delivery.Rates{Link: rate.Draw(t, "link"), Peer: rate.Draw(t, "peer"), Disk: rate.Draw(t, "disk"), Unpack: rate.Draw(t, "unpack"), Apply: rate.Draw(t, "apply")}
	return d
}

func (d drawn) plan() ([]delivery.Fetch, []delivery.FrameID) {
	return delivery.Plan(d.needs, d.offers, d.rates, testSpan)
}

// price is what a frame costs from an offer, said anew from the documentation.
func (d drawn) price(o delivery.Offer, file, frame int) float64 {
	packed, plain := float64(o.Frames[frame].Length), float64(d.needs[file].FrameLen(frame))
	link := d.rates.Link
	for _, other := range d.offers {
		if other.Kind == delivery.Peer && other.File == file && other.Frames[frame].Length > 0 {
			link = 0 // the neighbours want it over the same link: the bucket costs too much
		}
	}
	switch o.Kind {
	case delivery.Copy:
		return packed / d.rates.Disk
	case delivery.Peer:
		return packed / d.rates.Peer
	case delivery.Raw:
		return packed / link
	case delivery.Delta:
		return max(packed/link, plain/d.rates.Apply)
	default:
		return max(packed/link, plain/d.rates.Unpack)
	}
}

func TestEveryWantedFrameIsPlannedOnceOrLacking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		fetches, lacking := d.plan()
		seen := map[delivery.FrameID]int{}
		for _, f := range fetches {
			for i := range f.Count {
				seen[delivery.FrameID{File: f.File, Frame: f.First + i}]++
			}
		}
		for _, id := range lacking {
			seen[id]++
			for _, o := range d.offers {
				if o.File == id.File && o.Frames[id.Frame].Length > 0 {
					t.Fatalf("frame %v is said to be lacking, but %v has it", id, o)
				}
			}
		}
		for file, n := range d.needs {
			for frame, wanted := range n.Wanted {
				want := 0
				if wanted {
					want = 1
				}
				if got := seen[delivery.FrameID{File: file, Frame: frame}]; got != want {
					t.Fatalf("frame %d of file %d is planned %d times, wanted: %v", frame, file, got, wanted)
				}
			}
		}
	})
}

func TestEveryFetchIsExactlyItsFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		fetches, _ := d.plan()
		for _, f := range fetches {
			o := d.offers[f.Offer]
			at := f.Span.Offset
			for i := range f.Count {
				s := o.Frames[f.First+i]
				if s.Length <= 0 || s.Offset != at {
					t.Fatalf("fetch %+v: frame %d lies at %+v, not at %d", f, f.First+i, s, at)
				}
				at += s.Length
			}
			if at != f.Span.Offset+f.Span.Length || o.File != f.File {
				t.Fatalf("fetch %+v is not its frames", f)
			}
			if o.Kind == delivery.Peer && f.Count != 1 {
				t.Fatalf("fetch %+v asks a neighbour for several frames", f)
			}
			if f.Span.Length > testSpan && f.Count > 1 {
				t.Fatalf("fetch %+v is joined beyond %d bytes", f, testSpan)
			}
		}
	})
}

func TestNoOtherSourceIsCheaper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		fetches, _ := d.plan()
		for _, f := range fetches {
			for i := f.First; i < f.First+f.Count; i++ {
				chosen := d.price(d.offers[f.Offer], f.File, i)
				for _, o := range d.offers {
					if o.File == f.File && o.Frames[i].Length > 0 && d.price(o, f.File, i) < chosen {
						t.Fatalf("frame %d: %v was chosen over the cheaper %v", i, d.offers[f.Offer].Kind, o.Kind)
					}
				}
			}
		}
	})
}

func TestPlanIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		f1, l1 := d.plan()
		f2, l2 := d.plan()
		if diff := cmp.Diff(f1, f2) + cmp.Diff(l1, l2); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestASourceMoreNeverMakesItDearer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		if len(d.offers) == 0 {
			return
		}
		for i := range d.offers { // what neighbours offer does make the bucket dearer
			if d.offers[i].Kind == delivery.Peer {
				d.offers[i].Kind = delivery.Raw
			}
		}
		cost := func(d drawn) (sum float64, lacking int) {
			fetches, lack := d.plan()
			for _, f := range fetches {
				for i := f.First; i < f.First+f.Count; i++ {
					sum += d.price(d.offers[f.Offer], f.File, i)
				}
			}
			return sum, len(lack)
		}
		all, lackAll := cost(d)
		fewer := d
		fewer.offers = d.offers[1:]
		less, lackLess := cost(fewer)
		if lackAll > lackLess || (lackAll == lackLess && all > less*(1+1e-9)) {
			t.Fatalf("with one source more it costs %g and lacks %d, without %g and %d", all, lackAll, less, lackLess)
		}
	})
}

// The link decides between packed and plain: on a slow one fewer bytes win, on
// a fast one the decoder would be the bottleneck.
func TestTheLinkDecidesBetweenFullAndRaw(t *testing.T) {
	t.Parallel()
	needs := []delivery.Need{{Size: 100, FrameSize: 100, Wanted: []bool{true}}}
	offers := []delivery.Offer{
		{Kind: delivery.Full, Frames: []delivery.Span{{Length: 66}}},
		{Kind: delivery.Raw, Frames: []delivery.Span{{Length: 100}}},
	}
	for _, c := range []struct {
		link float64
		want delivery.Kind
	}{{12e6, delivery.Full}, {125e6, delivery.Full}, {2e9, delivery.Raw}} {
		fetches, _ := delivery.Plan(needs, offers, delivery.Rates{Link: c.link, Unpack: 600e6, Disk: 1e9, Peer: 1e8}, 16<<20)
		if len(fetches) != 1 || offers[fetches[0].Offer].Kind != c.want {
			t.Errorf("at %g B/s: %+v, want %v", c.link, fetches, c.want)
		}
	}
}

// What neighbours offer is taken from them however near the bucket is, and
// however little it would be: all of them share its link.
func TestTheSharedLinkCountsForAll(t *testing.T) {
	t.Parallel()
	needs := []delivery.Need{{Size: 200, FrameSize: 100, Wanted: []bool{true, true}}}
	both := func(n int64) []delivery.Span { return []delivery.Span{{Length: n}, {Offset: n, Length: n}} }
	delta := delivery.Offer{Kind: delivery.Delta, Frames: both(1)}
	peer := delivery.Offer{Kind: delivery.Peer, Frames: []delivery.Span{{}, {Offset: 100, Length: 100}}} // the first is this member's to bring in
	full := delivery.Offer{Kind: delivery.Full, Frames: both(66)}
	raw := delivery.Offer{Kind: delivery.Raw, Frames: both(100)}
	here := delivery.Offer{Kind: delivery.Copy, Frames: both(100)}
	rates := delivery.Rates{Link: 1e9, Peer: 1e6, Disk: 1e9, Unpack: 6e9, Apply: 6e9}
	for _, c := range []struct {
		offers []delivery.Offer
		want   [2]delivery.Kind
	}{
		{[]delivery.Offer{delta, peer, full, raw}, [2]delivery.Kind{delivery.Delta, delivery.Peer}},
		{[]delivery.Offer{peer, full, raw}, [2]delivery.Kind{delivery.Full, delivery.Peer}},
		{[]delivery.Offer{peer, here, raw}, [2]delivery.Kind{delivery.Copy, delivery.Copy}},
		{[]delivery.Offer{full, raw}, [2]delivery.Kind{delivery.Full, delivery.Full}},
	} {
		var got [2]delivery.Kind
		fetches, _ := delivery.Plan(needs, c.offers, rates, 16<<20)
		for _, f := range fetches {
			for i := range f.Count {
				got[f.First+i] = c.offers[f.Offer].Kind
			}
		}
		if got != c.want {
			t.Errorf("%v: %v, want %v", c.offers, got, c.want)
		}
	}
}
