package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Content is a published file's plain bytes by their place, read from a bucket
// and verified. It may be used by many goroutines at once.
type Content struct {
	src     registry.Reader
	file    File
	objects []object // shortest first
	unpack  *Unpacker
	spool   *spool // of a file that is signed whole: all of it, verified

	mu     sync.Mutex
	frames []*heldFrame // the last that were read, latest last
}

// object is one form of the file in the bucket.
type object struct {
	key     string
	index   Index
	offsets []int64
}

// heldFrame is a frame that is here or on its way.
type heldFrame struct {
	number int
	once   sync.Once
	plain  []byte
	err    error
}

// heldFrames is how many frames are kept, so that one that is needed in two
// pieces is fetched once.
func heldFrames() int { return 2*runtime.GOMAXPROCS(0) + 2 }

// OpenContent finds a file in the bucket. Its size is learnt when it is not
// signed. A file that is signed whole cannot be verified in pieces: it is
// fetched now, to a temporary file in dir.
func OpenContent(ctx context.Context, src registry.Reader, f File, dir string) (*Content, error) {
	c := &Content{src: src, file: f}
	raw, err := c.index(ctx, RawKey(f.Digest), Raw)
	if err != nil {
		return nil, err
	}
	c.file.Size, c.file.FrameSize = raw.index.Size, raw.index.FrameSize
	if raw.index.FullSize > 0 {
		full, err := c.index(ctx, FullKey(f.Digest), Full)
		if err != nil {
			return nil, err
		}
		c.objects = append(c.objects, full)
	}
	c.objects = append(c.objects, raw)
	if c.unpack, err = NewUnpacker(runtime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	if f.Whole() {
		if err := c.fetchWhole(ctx, dir); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// FetchSize is how many bytes of the bucket hold a file in its shortest form but a
// delta.
func FetchSize(ctx context.Context, src Getter, f File) (int64, error) {
	x, err := getIndex(ctx, src, RawKey(f.Digest), Raw, f)
	return smaller(x), err
}

// Getter reads small objects whole; registry.Reader offers it.
type Getter interface {
	Get(ctx context.Context, key, ifNoneMatch string) (body []byte, etag string, err error)
}

// getIndex reads the index of an object of a file, and sees that it is one.
func getIndex(ctx context.Context, src Getter, key string, kind Kind, f File) (Index, error) {
	b, _, err := src.Get(ctx, IndexKey(key), "")
	if err != nil {
		return Index{}, err
	}
	x, err := ParseIndex(b)
	if err != nil {
		return Index{}, fault.New(fault.Untrusted, "read index", IndexKey(key), err)
	}
	if x.Kind != kind || x.File != f.Digest || (f.Size >= 0 && x.Size != f.Size) ||
		(!f.Whole() && (x.FrameSize != f.FrameSize || len(x.Frames) != len(f.Frames))) {
		return Index{}, fault.Newf(fault.Untrusted, "read index", IndexKey(key), "it is not of this file").
			WithHint("it was changed or damaged in the bucket: remove it there and publish the release again")
	}
	return x, nil
}

// File is the file, with its size.
func (c *Content) File() File { return c.file }

// Close lets go of what is held.
func (c *Content) Close() error {
	c.unpack.Close()
	if c.spool == nil {
		return nil
	}
	return c.spool.Close()
}

// At is the content as a reader, for as long as ctx lives.
func (c *Content) At(ctx context.Context) io.ReaderAt {
	if c.spool != nil {
		return c.spool
	}
	return contentReader{ctx, c}
}

// contentReader is a Content within one context, which io.ReaderAt cannot pass.
type contentReader struct {
	ctx context.Context
	c   *Content
}

// ReadAt reads across frames.
func (r contentReader) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= r.c.file.Size {
			return n, io.EOF
		}
		plain, err := r.c.frame(r.ctx, int(at/r.c.file.FrameSize))
		if err != nil {
			return n, err
		}
		n += copy(p[n:], plain[at%r.c.file.FrameSize:])
	}
	return n, nil
}

// index reads where the frames of an object lie.
func (c *Content) index(ctx context.Context, key string, kind Kind) (object, error) {
	x, err := getIndex(ctx, c.src, key, kind, c.file)
	if err != nil {
		return object{}, err
	}
	o := object{key: key, index: x}
	var at int64
	for _, p := range x.Frames {
		o.offsets = append(o.offsets, at)
		at += p.Length
	}
	return o, nil
}

// frame is the plain bytes of frame i, which the caller only reads.
func (c *Content) frame(ctx context.Context, i int) ([]byte, error) {
	c.mu.Lock()
	at := slices.IndexFunc(c.frames, func(h *heldFrame) bool { return h.number == i })
	var h *heldFrame
	if at >= 0 {
		h = c.frames[at]
		c.frames = append(slices.Delete(c.frames, at, at+1), h)
	} else {
		h = &heldFrame{number: i}
		if c.frames = append(c.frames, h); len(c.frames) > heldFrames() {
			c.frames = slices.Delete(c.frames, 0, 1)
		}
	}
	c.mu.Unlock()
	h.once.Do(func() { h.plain, h.err = c.fetch(ctx, i) })
	if h.err != nil {
		c.mu.Lock()
		c.frames = slices.DeleteFunc(c.frames, func(o *heldFrame) bool { return o == h })
		c.mu.Unlock()
	}
	return h.plain, h.err
}

// fetch reads a frame from one object and, when that fails, from the next.
func (c *Content) fetch(ctx context.Context, i int) ([]byte, error) {
	var errs []error
	for _, o := range c.objects {
		plain, err := c.fetchFrom(ctx, o, i)
		if err == nil {
			return plain, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (c *Content) fetchFrom(ctx context.Context, o object, i int) ([]byte, error) {
	p := o.index.Frames[i]
	packed := make([]byte, p.Length)
	body, err := c.src.Range(ctx, o.key, o.offsets[i], p.Length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if _, err := io.ReadFull(body, packed); err != nil {
		return nil, registry.TransportError(ctx, "read", o.key, err)
	}
	if c.file.Whole() && fleet.DigestOf(packed) != p.Digest { // no frame of it is signed; the whole is checked at its end
		return nil, fault.Newf(fault.Untrusted, "verify frame", o.key, "frame %d is not what its index says", i)
	}
	plain := packed
	if p.Codec != Plain {
		plain = make([]byte, o.index.FrameLen(i))
		if err := c.unpack.Unpack(plain, packed, nil, p.Codec); err != nil {
			return nil, err
		}
	}
	if !c.file.Whole() && fleet.DigestOf(plain) != c.file.Frames[i] {
		return nil, fault.Newf(fault.Untrusted, "verify frame", o.key, "frame %d is not what was signed", i)
	}
	return plain, nil
}

// fetchWhole brings all frames here and verifies the whole.
func (c *Content) fetchWhole(ctx context.Context, dir string) error {
	var err error
	if c.spool, err = newSpool(dir, "modelfleet-base-*"); err != nil {
		return fault.New(fault.Exhausted, "read", c.file.Path, err).WithHint(freeTemp)
	}
	sum := sha256.New()
	for i := range c.objects[0].index.Frames {
		plain, err := c.fetch(ctx, i)
		if err != nil {
			return err
		}
		sum.Write(plain)
		if _, err := c.spool.Write(plain); err != nil {
			return fault.New(fault.Exhausted, "read", c.file.Path, err).WithHint(freeTemp)
		}
	}
	if fleet.Digest(sum.Sum(nil)) != c.file.Digest {
		return fault.Newf(fault.Untrusted, "verify file", c.file.Path, "%s is not what was signed", c.objects[0].key)
	}
	return nil
}
