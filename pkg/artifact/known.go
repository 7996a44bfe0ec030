package artifact

import (
	"context"
	"fmt"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// packing numbers the way deltas are packed and found worth keeping. A change
// that makes deltas shorter, or keeps more of them, raises it: what an older way
// gave up is then tried again.
const packing = 1

// givenUp is what the object says to people who look into the bucket. That it is
// there is all that counts.
const givenUp = "this delta was packed, and is not worth keeping\n"

// givenUpKey is the key of the object that says that a delta was not kept, so that
// nobody packs it again.
func givenUpKey(file, base fleet.Digest) string {
	return fmt.Sprintf("%s.none%d", DeltaKey(file, base), packing)
}

// FindDelta looks up what came of the delta of a file to a base before, without
// reading either of them. Known is false when nobody has made it.
//
// That one was given up is only a word in the bucket, which saves packing it
// again: whoever puts a false one there takes away a delta, and nothing else.
func FindDelta(ctx context.Context, st Getter, f File, base fleet.Digest) (DeltaStats, error) {
	full, err := (&deltaMaker{job: DeltaJob{File: f}}).full(ctx, st)
	if err != nil {
		return DeltaStats{}, err
	}
	return findDelta(ctx, st, f, base, full)
}

func findDelta(ctx context.Context, st Getter, f File, base fleet.Digest, full int64) (DeltaStats, error) {
	s := DeltaStats{Full: full}
	x, err := getIndex(ctx, st, DeltaKey(f.Digest, base), Delta, f)
	switch {
	case err == nil && x.Base == base:
		s.Size, s.Kept, s.Known = x.PackedSize(), true, true
		return s, nil
	case err != nil && !fault.Is(err, fault.NotFound):
		return s, err
	}
	_, _, err = st.Get(ctx, givenUpKey(f.Digest, base), "")
	switch {
	case err == nil:
		s.Size, s.Known = full, true
	case !fault.Is(err, fault.NotFound):
		return s, err
	}
	return s, nil
}

// giveUp says in the bucket that a delta is not worth keeping.
func giveUp(ctx context.Context, st Store, j DeltaJob) error {
	_, err := st.Create(ctx, givenUpKey(j.File.Digest, j.Base.Digest), registry.BodyOf([]byte(givenUp)))
	if fault.Is(err, fault.Conflict) {
		return nil // whatever it says there, it is there
	}
	return err
}
