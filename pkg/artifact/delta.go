package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// maxShare is the share of the smallest other object from which a delta is not
// worth its place in the bucket.
const maxShare = 0.80

// DeltaJob is a delta to be made: both files with their sizes and contents.
type DeltaJob struct {
	File, Base File
	New, Old   io.ReaderAt
	// Regions says what resembles what; by default the files are laid beside each
	// other from their beginnings or from their ends, whichever fits better.
	Regions []Region
}

// DeltaOptions says how a delta is made. The zero value is useful.
type DeltaOptions struct {
	TempDir  string           // where it is built; default os.TempDir
	Progress func(done int64) // plain bytes of the file done in all; called by one goroutine at a time
	Again    bool             // pack also one that was not worth keeping before
}

// DeltaStats is what came of a delta.
type DeltaStats struct {
	Size    int64 // of the delta; of what there was of it when it was given up, and Full if that was before
	Full    int64 // of the object a member would fetch otherwise
	Kept    bool  // it is in the bucket
	Known   bool  // it was made before, and kept or not
	Sent    int64 // bytes of objects that were made
	Objects int   // objects that were made
}

// Share is the delta's part of what a member would fetch otherwise.
func (s DeltaStats) Share() float64 { return float64(s.Size) / float64(max(s.Full, 1)) }

// UploadDelta puts the difference of a file, which is in the bucket, to another
// one beside it. Frames are packed in parallel, in memory that does not grow
// with the file, and each is at most as long as in the full object. A delta of
// 80 % of that object or more is not kept, which is no error, and is not packed
// again by a later call; one that is there already is left alone. Its index is
// written last.
func UploadDelta(ctx context.Context, st Store, j DeltaJob, o DeltaOptions) (DeltaStats, error) {
	if j.File.Size <= 0 || j.Base.Size <= 0 || j.File.Digest == j.Base.Digest {
		return DeltaStats{}, fault.Newf(fault.Invalid, "make delta", j.File.Path, "no difference to make: %d bytes, base of %d", j.File.Size, j.Base.Size)
	}
	if j.File.Whole() {
		j.File.FrameSize = FrameSize
	}
	m := &deltaMaker{job: j, o: o}
	full, err := m.full(ctx, st)
	if err != nil {
		return DeltaStats{}, err
	}
	s, err := findDelta(ctx, st, j.File, j.Base.Digest, full)
	if err != nil || s.Kept || (s.Known && !o.Again) {
		return s, err
	}
	s.Known = false
	spool, err := newSpool(o.TempDir, "modelfleet-delta-*")
	if err != nil {
		return s, fault.New(fault.Exhausted, "make delta", j.File.Path, err).WithHint(freeTemp)
	}
	defer spool.Close()
	x, sum, err := m.pack(ctx, spool, int64(maxShare*float64(full)))
	s.Size = x.PackedSize()
	if errors.Is(err, errTooLong) {
		return s, giveUp(ctx, st, j)
	} else if err != nil {
		return s, err
	}
	key := DeltaKey(j.File.Digest, j.Base.Digest)
	for _, w := range []struct {
		key  string
		body registry.Body
	}{{key, registry.Body{Reader: spool, Size: s.Size, SHA256: sum}}, {IndexKey(key), registry.BodyOf(x.Encode())}} {
		made, err := st.Create(ctx, w.key, w.body)
		if err != nil {
			return s, leftover(err)
		}
		if made {
			s.Sent, s.Objects = s.Sent+w.body.Size, s.Objects+1
		}
	}
	s.Kept = true
	return s, nil
}

// leftover explains a conflict: objects are named by what they hold, but how it
// is packed may change from one version of the program to the next.
func leftover(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Conflict {
		return f.WithHint("an attempt of another version of modelfleet was cut short here: remove %s from the bucket and do it again", f.Subject)
	}
	return err
}

var errTooLong = errors.New("the delta is not worth keeping")

// deltaMaker is one call of UploadDelta.
type deltaMaker struct {
	job    DeltaJob
	o      DeltaOptions
	packer *Packer
	frames []Packed // of the full object, when there is one
}

// full learns the size of the smallest other object, and its frames.
func (m *deltaMaker) full(ctx context.Context, st Getter) (int64, error) {
	raw, err := getIndex(ctx, st, RawKey(m.job.File.Digest), Raw, m.job.File)
	if err != nil || raw.FullSize == 0 {
		return raw.Size, err
	}
	full, err := getIndex(ctx, st, FullKey(m.job.File.Digest), Full, m.job.File)
	m.frames = full.Frames
	return raw.FullSize, err
}

// pack writes the delta's frames to the spool, and fails with errTooLong as soon
// as there are more than limit bytes.
func (m *deltaMaker) pack(ctx context.Context, spool io.Writer, limit int64) (Index, [sha256.Size]byte, error) {
	j := m.job
	x := Index{
		Kind: Delta, File: j.File.Digest, Size: j.File.Size, FrameSize: j.File.FrameSize,
		Base: j.Base.Digest, BaseSize: j.Base.Size,
	}
	var none [sha256.Size]byte
	var err error
	if m.packer, err = NewPacker(); err != nil {
		return x, none, err
	}
	if x.Regions, err = m.regions(); err != nil {
		return x, none, err
	}
	count := int((x.Size + x.FrameSize - 1) / x.FrameSize)
	batch := make([]deltaBuf, min(count, runtime.GOMAXPROCS(0)))
	sum, rawSum := sha256.New(), sha256.New()
	var done int64
	for first := 0; first < count; first += len(batch) {
		bufs := batch[:min(len(batch), count-first)]
		g, ctx := errgroup.WithContext(ctx)
		for i := range bufs {
			g.Go(func() error { return m.frame(ctx, x, first+i, &bufs[i]) })
		}
		if err := g.Wait(); err != nil {
			return x, none, err
		}
		for _, b := range bufs {
			if j.File.Whole() {
				rawSum.Write(b.plain)
			}
			x.Frames = append(x.Frames, Packed{Length: int64(len(b.packed)), Codec: b.codec, Digest: fleet.DigestOf(b.packed)})
			sum.Write(b.packed)
			if _, err := spool.Write(b.packed); err != nil {
				return x, none, fault.New(fault.Exhausted, "make delta", j.File.Path, err).WithHint(freeTemp)
			}
			done += int64(len(b.plain))
		}
		if m.o.Progress != nil {
			m.o.Progress(done)
		}
		if x.PackedSize() >= limit {
			return x, none, errTooLong
		}
	}
	if j.File.Whole() && fleet.Digest(rawSum.Sum(nil)) != j.File.Digest {
		return x, none, changed(j.File.Path)
	}
	return x, [sha256.Size]byte(sum.Sum(nil)), nil
}

// deltaBuf is one frame on its way through pack.
type deltaBuf struct {
	frameBuf
	base []byte
}

// frame reads a frame and its base, and packs it.
func (m *deltaMaker) frame(ctx context.Context, x Index, i int, b *deltaBuf) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f := m.job.File
	if err := b.read(m.job.New, f, i); err != nil {
		return err
	}
	if !f.Whole() && fleet.DigestOf(b.plain) != f.Frames[i] {
		return changed(f.Path)
	}
	sp := spans(x.Regions, int64(i)*x.FrameSize, x.FrameLen(i))
	if len(sp) == 0 {
		b.packed, b.codec = m.packer.Pack(b.packed[:0], b.plain)
		return nil
	}
	if cap(b.base) < len(b.plain) {
		b.base = make([]byte, x.FrameSize)
	}
	b.base = b.base[:len(b.plain)]
	clear(b.base)
	for _, s := range sp {
		if err := readAt(m.job.Old, b.base[s.New:s.New+s.Length], s.Base, m.job.Base.Path); err != nil {
			return err
		}
	}
	limit := int64(0)
	if m.frames != nil {
		limit = m.frames[i].Length
	}
	b.packed, b.codec = m.packer.PackAgainst(b.packed[:0], b.plain, b.base, limit)
	return nil
}

// regions are those of the job or, by probing, whichever way of laying the files
// beside each other fits better.
func (m *deltaMaker) regions() ([]Region, error) {
	j := m.job
	if len(j.Regions) > 0 {
		return Normal(j.Regions, j.File.Size, j.Base.Size), nil
	}
	n := min(j.File.Size, j.Base.Size)
	start, end := Region{Length: n}, Region{New: j.File.Size - n, Base: j.Base.Size - n, Length: n}
	if start == end {
		return []Region{start}, nil
	}
	best, least := start, int64(-1)
	for _, r := range []Region{start, end} {
		size, err := m.probe(r)
		if err != nil {
			return nil, err
		}
		if least < 0 || size < least {
			best, least = r, size
		}
	}
	return []Region{best}, nil
}

// probe packs a few pieces of a region and says how long they get.
func (m *deltaMaker) probe(r Region) (int64, error) {
	n := min(r.Length, probe)
	plain, base := make([]byte, n), make([]byte, n)
	var size int64
	for part := int64(1); part <= 3; part++ {
		at := (r.Length - n) * part / 4
		if err := readAt(m.job.New, plain, r.New+at, m.job.File.Path); err != nil {
			return 0, err
		}
		if err := readAt(m.job.Old, base, r.Base+at, m.job.Base.Path); err != nil {
			return 0, err
		}
		size += int64(len(m.packer.encodeAgainst(nil, plain, base)))
	}
	return size, nil
}

// readAt fills b from offset off.
func readAt(r io.ReaderAt, b []byte, off int64, path string) error {
	if n, err := r.ReadAt(b, off); n != len(b) {
		if errors.Is(err, io.EOF) {
			return changed(path) // it shrank
		}
		return fault.New(fault.KindOf(err), "read", path, err)
	}
	return nil
}
