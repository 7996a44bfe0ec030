package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"sync"

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

// frameBuf is one frame, read and packed.
type frameBuf struct {
	plain, packed []byte
	codec         Codec
}

// packBuf is one frame on its way through pack.
type packBuf struct {
	frameBuf
	raw, full Packed
	done      chan error
}

// pack reads the file once. All cores read its frames, compare them with what was
// signed and pack them; in their order they are hashed as a whole and spooled.
func (u *uploader) pack(ctx context.Context, f File, src io.ReaderAt, spool io.Writer, m *fileMeter) (packed, error) {
	p := packed{
		raw:  Index{Kind: Raw, File: f.Digest, Size: f.Size, FrameSize: f.FrameSize},
		full: Index{Kind: Full, File: f.Digest, Size: f.Size, FrameSize: f.FrameSize},
	}
	count := int((f.Size + f.FrameSize - 1) / f.FrameSize)
	bufs := make([]packBuf, min(count, runtime.GOMAXPROCS(0)+1)) // one of them is being spooled
	for i := range bufs {
		bufs[i].done = make(chan error, 1)
	}
	rawSum, fullSum := sha256.New(), sha256.New()
	var workers sync.WaitGroup
	defer workers.Wait()
	var size int64
	packing, begun := true, 0
	for i := range count {
		if err := ctx.Err(); err != nil {
			return packed{}, err
		}
		if packing = packing && (i < sample || worthIt(size, int64(i)*f.FrameSize)); !packing {
			p.full.Frames = nil
		}
		for ; begun < min(count, i+len(bufs)); begun++ {
			b, n, packing := &bufs[begun%len(bufs)], begun, packing
			workers.Go(func() { b.done <- u.frame(f, src, n, b, packing) })
		}
		b := &bufs[i%len(bufs)]
		if err := <-b.done; err != nil {
			return packed{}, err
		}
		p.raw.Frames = append(p.raw.Frames, b.raw)
		rawSum.Write(b.plain)
		m.packed(int64(len(b.plain)))
		if !packing {
			continue
		}
		p.full.Frames = append(p.full.Frames, b.full)
		size += b.full.Length
		fullSum.Write(b.packed)
		if _, err := spool.Write(b.packed); err != nil {
			return packed{}, fault.New(fault.Exhausted, "pack", f.Path, err).WithHint(freeTemp)
		}
	}
	p.rawSum, p.fullSum = [sha256.Size]byte(rawSum.Sum(nil)), [sha256.Size]byte(fullSum.Sum(nil))
	if f.Whole() && fleet.Digest(p.rawSum) != f.Digest {
		return packed{}, changed(f.Path)
	}
	return p, nil
}

// frame reads frame i, compares it with what was signed, and packs it if packing.
func (u *uploader) frame(f File, src io.ReaderAt, i int, b *packBuf, packing bool) error {
	if err := b.read(src, f, i); err != nil {
		return err
	}
	d := fleet.DigestOf(b.plain)
	if !f.Whole() && d != f.Frames[i] {
		return changed(f.Path)
	}
	b.raw = Packed{Length: int64(len(b.plain)), Codec: Plain, Digest: d}
	if packing {
		b.packed, b.codec = u.packer.Pack(b.packed[:0], b.plain)
		b.full = Packed{Length: int64(len(b.packed)), Codec: b.codec, Digest: fleet.DigestOf(b.packed)}
	}
	return nil
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
