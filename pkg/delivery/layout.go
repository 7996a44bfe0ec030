package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// maxBases is how many files that are here are tried as the base of a delta.
const maxBases = 2

// smallWithin bounds a read that no stream watches over: a source that trickles
// must not hold an install for ever.
const smallWithin = 5 * time.Minute

// layOut learns the sizes of what must be fetched and where its frames lie.
func (j *job) layOut(ctx context.Context) error {
	bases := j.bases()
	j.prepare(ctx, bases)
	return j.parallel(ctx, len(j.targets), func(ctx context.Context, i int) error {
		t := j.targets[i]
		return j.layOutFile(ctx, t, bases[t.file.Path])
	})
}

// bases are the files here that lie at the same path of other releases, by path:
// those of the releases named in Want.Bases first.
func (j *job) bases() map[string][]cas.Entry {
	bases := map[string][]cas.Entry{}
	if len(j.targets) == 0 {
		return bases
	}
	releases, err := j.o.Store.Releases()
	if err != nil {
		j.o.Logger.Debug("releases here not listed, no deltas are used", "err", err)
	}
	seen := map[fleet.Digest]bool{j.want.Key: true}
	for _, key := range slices.Concat(j.want.Bases, releases) {
		if seen[key] {
			continue
		}
		seen[key] = true
		entries, err := j.o.Store.Entries(key)
		if err != nil {
			j.o.Logger.Debug("files of a release not listed", "release", key.Short(), "err", err)
			continue
		}
		for _, e := range entries {
			known := slices.ContainsFunc(bases[e.Path], func(b cas.Entry) bool { return b.Digest == e.Digest })
			if !known && len(bases[e.Path]) < maxBases {
				bases[e.Path] = append(bases[e.Path], e)
			}
		}
	}
	return bases
}

// prepare asks a source that makes URLs for all of them at once.
func (j *job) prepare(ctx context.Context, bases map[string][]cas.Entry) {
	p, ok := j.o.Source.(interface {
		Prepare(ctx context.Context, keys []string) error
	})
	if !ok || len(j.targets) == 0 {
		return
	}
	var keys []string
	for _, t := range j.targets {
		raw := artifact.RawKey(t.file.Digest)
		keys = append(keys, raw, artifact.IndexKey(raw))
		for _, b := range bases[t.file.Path] {
			keys = append(keys, artifact.IndexKey(artifact.DeltaKey(t.file.Digest, b.Digest)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, smallWithin)
	defer cancel()
	if err := p.Prepare(ctx, keys); err != nil { // it shows again when the keys are read
		j.o.Logger.Debug("urls not prepared", "err", err)
	}
}

// layOutFile learns what the manifest does not say: for a file that was signed
// whole its size, and where packed frames lie. Indexes are hints; one that is
// missing or contradicts the manifest is ignored, if it can be.
func (j *job) layOutFile(ctx context.Context, t *target, bases []cas.Entry) error {
	raw, rawErr := j.index(ctx, artifact.RawKey(t.file.Digest), artifact.Raw, t)
	var fullErr error
	if rawErr != nil || raw.FullSize > 0 {
		var x artifact.Index
		if x, fullErr = j.index(ctx, artifact.FullKey(t.file.Digest), artifact.Full, t); fullErr == nil {
			t.full = &x
		}
	}
	if stops(rawErr) {
		return rawErr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if fullErr != nil {
		j.o.Logger.Debug("full object not used", "path", t.file.Path, "err", fullErr)
	}
	if t.file.Whole() {
		if err := j.layOutWhole(t, raw, rawErr, fullErr); err != nil {
			return err
		}
	} else {
		t.digests = t.file.Frames
	}
	t.clear()
	for _, b := range bases {
		j.layOutDelta(ctx, t, b)
	}
	return ctx.Err()
}

// stops reports whether an error is about more than one object.
func stops(err error) bool {
	k := fault.KindOf(err)
	return err != nil && (k == fault.Canceled || k == fault.Exhausted || k == fault.Transient)
}

func (j *job) layOutWhole(t *target, raw artifact.Index, rawErr, fullErr error) error {
	hint := raw
	if rawErr != nil {
		if stops(fullErr) {
			return fullErr
		}
		if fullErr != nil {
			return rawErr // without a size nothing can be begun
		}
		hint = *t.full
	}
	if hint.Size > j.want.Size {
		return fault.Newf(fault.Untrusted, "read index", artifact.RawKey(t.file.Digest),
			"%q is said to have %d bytes, more than the %d signed for the release", t.file.Path, hint.Size, j.want.Size)
	}
	t.file.Size, t.file.FrameSize = hint.Size, hint.FrameSize
	t.digests = make([]fleet.Digest, len(hint.Frames))
	if len(hint.Frames) == 1 {
		t.digests[0] = t.file.Digest
	} else if rawErr == nil {
		for i, f := range raw.Frames {
			t.digests[i] = f.Digest
		}
	}
	if t.full != nil && (t.full.Size != t.file.Size || t.full.FrameSize != t.file.FrameSize) {
		t.full = nil
	}
	return nil
}

// layOutDelta looks for the difference of a file to one that is here. Mostly
// there is none.
func (j *job) layOutDelta(ctx context.Context, t *target, base cas.Entry) {
	if base.Digest == t.file.Digest || t.missing == 0 {
		return
	}
	key := artifact.DeltaKey(t.file.Digest, base.Digest)
	x, err := j.index(ctx, key, artifact.Delta, t)
	if err == nil && (x.Base != base.Digest || x.BaseSize != base.Size || x.Size != t.file.Size || x.FrameSize != t.file.FrameSize) {
		err = fault.Newf(fault.Untrusted, "read index", artifact.IndexKey(key), "it is not of these two files")
	}
	if err != nil {
		if !fault.Is(err, fault.NotFound) {
			j.o.Logger.Debug("delta not used", "path", t.file.Path, "err", err)
		}
		return
	}
	t.deltas = append(t.deltas, difference{key, &x, j.o.Store.FilePath(base.Digest)})
}

// index reads an object's index, with the patience of every read.
func (j *job) index(ctx context.Context, key string, kind artifact.Kind, t *target) (artifact.Index, error) {
	var x artifact.Index
	err := j.persist(ctx, func(ctx context.Context) error {
		within, cancel := context.WithTimeout(ctx, smallWithin)
		defer cancel()
		b, _, err := j.o.Source.Get(within, artifact.IndexKey(key), "")
		if err != nil && within.Err() != nil && ctx.Err() == nil {
			return fault.New(fault.Transient, "read index", artifact.IndexKey(key), errStalled)
		}
		if err != nil {
			return err
		}
		if x, err = artifact.ParseIndex(b); err != nil {
			return fault.New(fault.Untrusted, "read index", artifact.IndexKey(key), err)
		}
		return nil
	})
	if err != nil {
		return x, err
	}
	f := t.file
	if x.Kind != kind || x.File != f.Digest || (!f.Whole() && (x.Size != f.Size || x.FrameSize != f.FrameSize)) ||
		x.FrameSize > j.frame {
		return x, fault.Newf(fault.Untrusted, "read index", artifact.IndexKey(key), "it is not of this file")
	}
	return x, nil
}
