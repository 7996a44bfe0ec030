package delivery

import (
	"maps"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// neighbours is the name of their offers.
const neighbours = "neighbours"

// offer adds what there is for target i: the sources in the order in which they
// win at equal price.
func (j *job) offer(i int) {
	t := j.targets[i]
	if len(t.frames) == 0 {
		return
	}
	packed := func(k Kind, name string, x *artifact.Index) Offer {
		o := Offer{Kind: k, File: i, Name: name, Frames: make([]Span, len(t.frames)), index: x}
		var at int64
		for f, p := range x.Frames {
			o.Frames[f] = Span{at, p.Length}
			at += p.Length
		}
		return o
	}
	add := func(o Offer) {
		if j.dead[o.Name] == nil {
			j.offers = append(j.offers, o)
		}
	}
	if t.doubt == 0 {
		for _, d := range t.deltas {
			o := packed(Delta, d.key, d.index)
			o.base = d.base
			add(o)
		}
	}
	if t.full != nil && t.doubt != 1 {
		add(packed(Full, artifact.FullKey(t.file.Digest), t.full))
	}
	if t.doubt != 2 {
		add(t.offer(Raw, i, artifact.RawKey(t.file.Digest)))
	}
}

// offer is of all frames, plain and each at its place.
func (t *target) offer(k Kind, file int, name string) Offer {
	o := Offer{Kind: k, File: file, Name: name, Frames: make([]Span, len(t.frames))}
	for f := range o.Frames {
		o.Frames[f] = Span{int64(f) * t.file.FrameSize, t.frameLen(f)}
	}
	return o
}

// meet offers what neighbours have, anew when their number has changed: all but
// the frames that this member is to bring in for them.
func (j *job) meet() {
	if !j.asks || j.o.Peers == nil {
		return
	}
	n := j.o.Peers.Sharers(j.want.Key)
	if n == j.sharers {
		return
	}
	j.sharers = n
	for i := range j.offers {
		if j.offers[i].Kind == Peer {
			j.offers[i].Frames = nil
		}
	}
	for i, t := range j.targets {
		if n < 2 || t.file.Whole() || t.done {
			continue
		}
		o := t.offer(Peer, i, neighbours)
		for f := range o.Frames {
			if t.frames[f] == here || j.o.Peers.Owns(j.ref(t, f)) {
				o.Frames[f].Length = 0
			}
		}
		j.offers = append(j.offers, o)
	}
}

// ref is what neighbours call frame i.
func (j *job) ref(t *target, i int) FrameRef {
	return FrameRef{
		Path: j.want.Path, Release: j.want.Key, File: t.file.Digest, Frame: i,
		Digest: t.digests[i], Length: int(t.frameLen(i)),
	}
}

// offerLocal adds the wanted frames that lie in other files here, by their
// digests, and those of damaged copies.
func (j *job) offerLocal() {
	places := j.places()
	for i, t := range j.targets {
		if aside := j.damaged[t.file.Digest]; aside != "" {
			j.offers = append(j.offers, t.offer(Copy, i, aside))
		}
		byPath := map[string]*Offer{}
		for f, d := range t.digests {
			p, ok := places[d]
			if !ok || p.at.Length != t.frameLen(f) {
				continue
			}
			if byPath[p.path] == nil {
				byPath[p.path] = &Offer{Kind: Copy, File: i, Name: p.path, Frames: make([]Span, len(t.frames))}
			}
			byPath[p.path].Frames[f] = p.at
		}
		for _, path := range slices.Sorted(maps.Keys(byPath)) {
			j.offers = append(j.offers, *byPath[path])
		}
	}
}

type place struct {
	path string
	at   Span
}

// places is where the wanted frames lie in files that are here.
func (j *job) places() map[fleet.Digest]place {
	need := map[fleet.Digest]bool{}
	for _, t := range j.targets {
		for i, d := range t.digests {
			if t.frames[i] == wanted && !d.IsZero() {
				need[d] = true
			}
		}
	}
	places := map[fleet.Digest]place{}
	if len(need) == 0 {
		return places
	}
	files, err := j.o.Store.Files()
	if err != nil {
		j.o.Logger.Debug("files here not listed, all is fetched", "err", err)
	}
	for _, d := range files {
		fr, ok := j.o.Store.Frames(d)
		if !ok {
			continue
		}
		size, _ := j.o.Store.FileSize(d)
		for i, fd := range fr.Digests {
			if off := int64(i) * fr.Length; need[fd] && off < size {
				places[fd] = place{j.o.Store.FilePath(d), Span{off, min(fr.Length, size-off)}}
			}
		}
	}
	return places
}
