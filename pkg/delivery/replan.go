package delivery

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

const (
	maxSpan = 16 << 20 // one ranged read
	// replanAfter is how many bytes are fetched before the rest is planned anew:
	// by then the rates are known better. Before the link was measured it is less,
	// and so is what one read may take.
	replanAfter, probeAfter, probeSpan = 32 << 20, enough, 4 << 20
	// probeFrom is how much must be wanted before a few plain frames are worth
	// knowing the link by.
	probeFrom = 32 * enough
	// tries is how often one source may deliver a wrong frame: the first may
	// have been the wire, the second is the source.
	tries = 2
	// lies is how many frames of a delta may be wrong before all of it is
	// distrusted: then its base is not the one it was made from.
	lies = 3
)

// replan plans what is wanted now. busy: somebody is fetching frames.
func (j *job) replan() (busy bool, err error) {
	j.meet()
	needs := make([]Need, len(j.targets))
	for i, t := range j.targets {
		needs[i] = t.need()
		// A file that is whole is still being made durable, which may fail.
		busy = busy || t.busy > 0 || (t.missing == 0 && !t.done)
	}
	total := left(needs)
	rates, measured := j.meter.rates(total >= probeFrom && !j.offered(Delta))
	span := min(maxSpan, total/int64(2*j.o.Streams)+1) // near the end all streams have work
	if j.guessed = !measured; j.guessed {
		span = min(span, probeSpan)
	}
	fetches, lacking := Plan(needs, j.offers, rates, span)
	for _, id := range lacking {
		if t := j.targets[id.File]; t.busy == 0 { // else what is under way may still bring it about
			if err := j.lacks(t, id); err != nil {
				return busy, err
			}
			return j.replan()
		}
	}
	j.plan, j.stale, j.planned = j.mixed(fetches), false, j.progress.Done
	return busy, nil
}

// left is how many bytes are wanted.
func left(needs []Need) (total int64) {
	for _, n := range needs {
		for i, w := range n.Wanted {
			if w {
				total += n.FrameLen(i)
			}
		}
	}
	return total
}

// offered reports whether there is a source of a kind.
func (j *job) offered(k Kind) bool {
	return slices.ContainsFunc(j.offers, func(o Offer) bool { return o.Kind == k })
}

// mixed spreads the errands to neighbours, in random order, evenly among the
// others: the members of a site must not all want the same frame at once, and
// both links are to be busy.
func (j *job) mixed(fs []Fetch) []Fetch {
	var peers, rest []Fetch
	for _, f := range fs {
		if j.offers[f.Offer].Kind == Peer {
			peers = append(peers, f)
		} else {
			rest = append(rest, f)
		}
	}
	rand.Shuffle(len(peers), func(a, b int) { peers[a], peers[b] = peers[b], peers[a] })
	if len(rest) == 0 {
		return peers
	}
	out := make([]Fetch, 0, len(fs))
	for i, f := range rest {
		out = append(out, f)
		out = append(out, peers[i*len(peers)/len(rest):(i+1)*len(peers)/len(rest)]...)
	}
	return out
}

// lacks decides what becomes of a frame that no source has (any more): another
// way of fetching its file, or the end.
func (j *job) lacks(t *target, id FrameID) error {
	ends := []error{j.dead[artifact.RawKey(t.file.Digest)], j.dead[artifact.FullKey(t.file.Digest)]}
	for _, err := range ends {
		if fault.Is(err, fault.Transient) { // whatever else was wrong: it may have the frame
			return err
		}
	}
	if t.blame != nil && t.again() {
		j.renew(t)
		return nil
	}
	if err := cmp.Or(t.blame, ends[0], ends[1]); err != nil {
		return err
	}
	return fault.Newf(fault.NotFound, "install", t.file.Path, "no source has frame %d of files/%s", id.Frame, t.file.Digest)
}

// renew offers anew what there is for a target that is fetched another way now.
func (j *job) renew(t *target) {
	file := slices.Index(j.targets, t)
	for i := range j.offers {
		if j.offers[i].File == file {
			j.offers[i].Frames = nil
		}
	}
	j.offer(file)
	j.stale = true
	j.tell()
}

// bury takes a source out of the plan.
func (j *job) bury(name string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.dead[name] == nil {
		j.dead[name] = err
	}
	for i := range j.offers {
		if j.offers[i].Name == name {
			j.offers[i].Frames = nil
		}
	}
	j.stale = true
	j.o.Logger.Debug("source given up", "source", name, "err", err)
}

func (j *job) buried(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.dead[name] != nil
}

// mark notes that a source delivered a wrong frame n times; after a while it is
// not asked for it any more.
func (j *job) mark(e errand, i, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := lie{e.offer.Name, e.t.file.Digest, i, e.t.doubt}
	if j.wrong[l] += n; j.wrong[l] < tries || i >= len(j.offers[e.Offer].Frames) {
		return
	}
	frames := slices.Clone(j.offers[e.Offer].Frames) // errands under way have the old ones
	frames[i].Length = 0
	j.offers[e.Offer].Frames = frames
}
