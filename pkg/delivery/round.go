package delivery

import (
	"context"
	"maps"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	maxSpan   = 16 << 20 // one ranged read
	probeSpan = 32 << 20 // fetched before the rates are believed
	// tries is how often one source may deliver a wrong frame: the first may
	// have been the wire, the second is the source.
	tries = 2
)

// fetch plans and carries out, round by round, until every frame is here. A
// round ends when its fetches are done or given up; what they left is planned
// anew, without the sources that turned out wrong.
func (in *install) fetch(ctx context.Context) error {
	for _, t := range in.targets { // empty files, and whole ones found on resume
		if t.missing == 0 {
			if err := in.complete(ctx, t, in.bufs[0]); err != nil {
				return err
			}
		}
	}
	r := &round{install: in}
	for probe := true; ; probe = false {
		r.offer()
		needs := make([]Need, len(in.targets))
		for i, t := range in.targets {
			needs[i] = t.need()
		}
		fetches, lacking := Plan(needs, r.offers, in.meter.rates(in.workers), in.span(needs))
		if len(lacking) > 0 {
			if err := r.lacks(lacking); err != nil {
				return err
			}
			continue
		}
		if len(fetches) == 0 {
			return nil
		}
		if probe {
			fetches = firstBytes(fetches, probeSpan)
		}
		err := in.parallel(ctx, len(fetches), func(ctx context.Context, i int, b *buffers) error {
			return r.do(ctx, fetches[i], b)
		})
		if err != nil {
			return err
		}
	}
}

// span is the length of one ranged read: shorter near the end of a small
// release, so that all streams have work.
func (in *install) span(needs []Need) int64 {
	var total int64
	for _, n := range needs {
		for i, w := range n.Wanted {
			if w {
				total += n.FrameLen(i)
			}
		}
	}
	return min(maxSpan, total/int64(2*in.workers)+1)
}

func firstBytes(fs []Fetch, n int64) []Fetch {
	for i, f := range fs {
		if n -= f.Span.Length; n <= 0 {
			return fs[:i+1]
		}
	}
	return fs
}

// round is the state of the sources over the rounds of one install.
type round struct {
	*install
	offers []Offer
	wrong  map[badKey]int   // wrong frames delivered, guarded by install.mu
	dead   map[string]error // sources that refused for good, by name
}

type badKey struct {
	source string
	frame  int
	doubt  int
}

// offer collects what the sources have, less what they failed at.
func (r *round) offer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offers = r.local()
	for i, t := range r.targets {
		if !t.done {
			r.offers = append(r.offers, t.offers(i)...)
		}
	}
	for _, o := range r.offers {
		for f := range o.Frames {
			if r.dead[o.Name] != nil || r.wrong[badKey{o.Name, f, r.targets[o.File].doubt}] >= tries {
				o.Frames[f].Length = 0
			}
		}
	}
}

// local offers the frames of wanted files that lie in other files here, by
// their digests, and those of damaged copies.
func (r *round) local() []Offer {
	type place struct {
		path string
		at   Span
	}
	wanted := map[fleet.Digest]bool{}
	for _, t := range r.targets {
		for i, d := range t.digests {
			if !t.have[i] && !t.done && !d.IsZero() {
				wanted[d] = true
			}
		}
	}
	places := map[fleet.Digest]place{}
	files, err := r.o.Store.Files()
	if err != nil {
		r.o.Logger.Debug("files here not listed, all is fetched", "err", err)
	}
	for _, d := range files {
		fr, ok := r.o.Store.Frames(d)
		if !ok {
			continue
		}
		size, _ := r.o.Store.FileSize(d)
		for i, fd := range fr.Digests {
			if off := int64(i) * fr.Length; wanted[fd] && off < size {
				places[fd] = place{r.o.Store.FilePath(d), Span{off, min(fr.Length, size-off)}}
			}
		}
	}
	byPath := map[string]*Offer{}
	var offers []Offer
	for i, t := range r.targets {
		if aside := r.damaged[t.file.Digest]; aside != "" {
			o := Offer{Kind: Copy, File: i, Name: aside, Frames: make([]Span, len(t.have))}
			for f := range o.Frames {
				o.Frames[f] = Span{int64(f) * t.file.FrameSize, t.frameLen(f)}
			}
			offers = append(offers, o)
		}
		clear(byPath)
		for f, d := range t.digests {
			p, ok := places[d]
			if !ok || d.IsZero() || p.at.Length != t.frameLen(f) {
				continue
			}
			if byPath[p.path] == nil {
				byPath[p.path] = &Offer{Kind: Copy, File: i, Name: p.path, Frames: make([]Span, len(t.have))}
			}
			byPath[p.path].Frames[f] = p.at
		}
		for _, path := range slices.Sorted(maps.Keys(byPath)) {
			offers = append(offers, *byPath[path])
		}
	}
	return offers
}

// lacks decides what becomes of frames that no source has (any more): another
// way of fetching the file, or the end.
func (r *round) lacks(frames []FrameID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	again := map[*target]bool{}
	for _, id := range frames {
		t := r.targets[id.File]
		if again[t] {
			continue
		}
		if t.blame != nil && t.again() {
			again[t] = true
			continue
		}
		if t.blame != nil {
			return t.blame
		}
		raw := artifact.RawKey(t.file.Digest)
		if err := r.dead[raw]; err != nil {
			return err
		}
		return fault.Newf(fault.NotFound, "install", t.file.Path, "no source has frame %d of %s", id.Frame, raw)
	}
	return nil
}
