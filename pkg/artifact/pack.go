package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// freeTemp is the next move of whoever has no room for what is packed.
const freeTemp = "free space in the temporary folder, or name another one in TMPDIR"

// sample is how many frames are packed before packing is given up for a file
// that does not get shorter: 256 MiB at the default frame size.
const sample = 64

// packed is one file read once: hashed, compared with what was signed, and
// packed into the spool file.
type packed struct {
	raw, full       Index // full has no frames when packing was given up
	rawSum, fullSum [sha256.Size]byte
}

// frameBuf is one frame on its way through pack.
type frameBuf struct {
	plain, packed []byte
	codec         Codec
}

// pack reads the file in batches of frames; the frames of a batch are hashed
// and packed in parallel, then written in order.
func (u *uploader) pack(ctx context.Context, f File, src io.ReaderAt, spool io.Writer, m *fileMeter) (packed, error) {
	p := packed{
		raw:  Index{Kind: Raw, File: f.Digest, Size: f.Size, FrameSize: f.FrameSize},
		full: Index{Kind: Full, File: f.Digest, Size: f.Size, FrameSize: f.FrameSize},
	}
	count := int((f.Size + f.FrameSize - 1) / f.FrameSize)
	batch := make([]frameBuf, min(count, runtime.GOMAXPROCS(0)))
	rawSum, fullSum := sha256.New(), sha256.New()
	packing := true
	for first := 0; first < count; first += len(batch) {
		if err := ctx.Err(); err != nil {
			return packed{}, err
		}
		bufs := batch[:min(len(batch), count-first)]
		for i := range bufs {
			if err := bufs[i].read(src, f, first+i); err != nil {
				return packed{}, err
			}
		}
		packing = packing && (first < sample || worthIt(p.full.PackedSize(), int64(len(p.full.Frames))*f.FrameSize))
		if !packing {
			p.full.Frames = nil
		}
		raws, fulls, err := u.packBatch(f, first, bufs, rawSum, packing)
		if err != nil {
			return packed{}, err
		}
		p.raw.Frames = append(p.raw.Frames, raws...)
		p.full.Frames = append(p.full.Frames, fulls...)
		for _, b := range bufs {
			m.packed(int64(len(b.plain)))
			if !packing {
				continue
			}
			fullSum.Write(b.packed)
			if _, err := spool.Write(b.packed); err != nil {
				return packed{}, fault.New(fault.Exhausted, "pack", f.Path, err).WithHint(freeTemp)
			}
		}
	}
	p.rawSum, p.fullSum = [sha256.Size]byte(rawSum.Sum(nil)), [sha256.Size]byte(fullSum.Sum(nil))
	if f.Whole() && fleet.Digest(p.rawSum) != f.Digest {
		return packed{}, changed(f.Path)
	}
	return p, nil
}

func (u *uploader) packBatch(f File, first int, bufs []frameBuf, rawSum hash.Hash, packing bool) (raws, fulls []Packed, err error) {
	raws = make([]Packed, len(bufs))
	if packing {
		fulls = make([]Packed, len(bufs))
	}
	var g errgroup.Group
	g.Go(func() error { // the hash of the whole runs beside the frames' own work
		for i := range bufs {
			rawSum.Write(bufs[i].plain)
		}
		return nil
	})
	for i := range bufs {
		g.Go(func() error {
			b := &bufs[i]
			d := fleet.DigestOf(b.plain)
			if !f.Whole() && d != f.Frames[first+i] {
				return changed(f.Path)
			}
			raws[i] = Packed{Length: int64(len(b.plain)), Codec: Plain, Digest: d}
			if !packing {
				return nil
			}
			b.packed, b.codec = u.packer.Pack(b.packed[:0], b.plain)
			fulls[i] = Packed{Length: int64(len(b.packed)), Codec: b.codec, Digest: fleet.DigestOf(b.packed)}
			return nil
		})
	}
	return raws, fulls, g.Wait()
}

func (b *frameBuf) read(src io.ReaderAt, f File, i int) error {
	off := int64(i) * f.FrameSize
	n := min(f.FrameSize, f.Size-off)
	if int64(cap(b.plain)) < n {
		b.plain = make([]byte, f.FrameSize)
	}
	b.plain = b.plain[:n]
	if got, err := src.ReadAt(b.plain, off); int64(got) != n {
		if errors.Is(err, io.EOF) {
			return changed(f.Path) // it shrank
		}
		return fault.New(fault.Invalid, "read", f.Path, err)
	}
	return nil
}
