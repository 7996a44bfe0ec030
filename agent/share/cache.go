package share

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	// leave is disk space that the cache never takes: twice what an install leaves.
	leave = 128 << 20
	// stale is how long a frame that nobody asks for is kept.
	stale = 24 * time.Hour
	// piece is what is hashed or sent at a time.
	piece = 128 << 10
)

// cache keeps frames that were fetched for neighbours and are not part of an
// install here: one file a frame, DIR/DIGEST. It is bounded, gives way to
// everything else on the disk, and need not survive anything: files are not
// synced and each is hashed again before it is used.
type cache struct {
	dir   string
	limit int64
	log   *slog.Logger
	free  func(dir string) (int64, error)

	mu      sync.Mutex // not held while a frame's bytes are written
	used    int64      // by frames, and by those being written
	writing int64      // of that, by those being written
	frames  map[fleet.Digest]*cached
}

type cached struct {
	size int64
	at   time.Time // when it was last used
}

// openCache takes up what is in dir. A limit of 0 keeps nothing.
func openCache(dir string, limit int64, log *slog.Logger) (*cache, error) {
	c := &cache{dir: dir, limit: limit, log: log, free: freeSpace, frames: map[fleet.Digest]*cached{}}
	if err := cas.MkdirAll(dir); err != nil {
		return nil, err
	}
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, cas.Classify("open frame cache", dir, err)
	}
	for _, e := range es {
		d, err := fleet.ParseDigest(e.Name())
		fi, ferr := e.Info()
		if err != nil || ferr != nil || !fi.Mode().IsRegular() { // a write that was cut short
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, cas.Classify("open frame cache", dir, err)
			}
			continue
		}
		c.frames[d] = &cached{fi.Size(), fi.ModTime()}
		c.used += fi.Size()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shrink(limit)
	return c, nil
}

func (c *cache) path(d fleet.Digest) string { return filepath.Join(c.dir, d.String()) }

// has says whether a frame is kept.
func (c *cache) has(d fleet.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames[d] != nil
}

// open gives a frame that is kept, hashed just now; NotFound if there is none, or
// none that is right.
func (c *cache) open(d fleet.Digest, length int) (io.ReadCloser, error) {
	c.mu.Lock()
	e := c.frames[d]
	if e != nil {
		e.at = time.Now()
	}
	c.mu.Unlock()
	missing := fault.Newf(fault.NotFound, "open cached frame", d.Short(), "it is not kept")
	if e == nil || e.size != int64(length) {
		return nil, missing
	}
	f, err := openFrame(c.path(d), 0, d, length)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, errWrong) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EIO):
		c.log.Warn("cached frame is damaged and was removed", "err", err)
		c.drop(d)
		return nil, missing
	default: // too many open files, say: the frame is as good as before
		return nil, cas.Classify("open cached frame", c.path(d), err)
	}
}

// put keeps a frame if there is room for it.
func (c *cache) put(d fleet.Digest, data []byte) error {
	size := int64(len(data))
	free, err := c.free(c.dir)
	if err != nil {
		return cas.Classify("look up free space", c.dir, err)
	}
	if here, err := c.reserve(d, size, free); here || err != nil {
		return err
	}
	tmp, err := c.write(data)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing -= size
	if err == nil {
		err = os.Rename(tmp, c.path(d))
	}
	if err != nil {
		c.used -= size
		return cas.Classify("keep frame", c.dir, errors.Join(err, os.RemoveAll(tmp)))
	}
	if c.frames[d] != nil { // another was as quick
		c.used -= size
		return nil
	}
	c.frames[d] = &cached{size, time.Now()}
	return nil
}

// reserve makes room for a frame, unless it is here.
func (c *cache) reserve(d fleet.Digest, size, free int64) (here bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frames[d] != nil {
		return true, nil
	}
	room := min(c.limit, c.used-c.writing+free-leave) // what is being written is still counted as free
	c.shrink(room - size)
	if c.used+size > room {
		return false, fault.Newf(fault.Exhausted, "keep frame", d.Short(), "there is room for %d bytes", max(room-c.used, 0))
	}
	c.used += size
	c.writing += size
	return false, nil
}

// write puts a frame's bytes in a file of their own. Also on an error the file, if
// there is one, is the caller's to remove.
func (c *cache) write(data []byte) (path string, err error) {
	tmp, err := os.CreateTemp(c.dir, "tmp*")
	if err != nil {
		return "", err
	}
	_, err = tmp.ReadFrom(bytes.NewReader(data))
	return tmp.Name(), errors.Join(err, tmp.Close())
}

// shrink removes what was used longest ago until at most so many bytes are kept.
// c.mu is held.
func (c *cache) shrink(to int64) {
	if c.used <= to {
		return
	}
	byAge := make([]fleet.Digest, 0, len(c.frames))
	for d := range c.frames {
		byAge = append(byAge, d)
	}
	slices.SortFunc(byAge, func(a, b fleet.Digest) int {
		return cmp.Or(c.frames[a].at.Compare(c.frames[b].at), bytes.Compare(a[:], b[:]))
	})
	for _, d := range byAge {
		if c.used <= to {
			return
		}
		c.remove(d)
	}
}

// trim removes what nobody asked for lately.
func (c *cache) trim(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d, e := range c.frames {
		if now.Sub(e.at) > stale {
			c.remove(d)
		}
	}
}

// clear gives all of the disk back.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shrink(0)
}

func (c *cache) drop(d fleet.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(d)
}

// remove takes a frame away; c.mu is held. Readers that have it open go on.
func (c *cache) remove(d fleet.Digest) {
	e := c.frames[d]
	if e == nil {
		return
	}
	if err := os.Remove(c.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("cached frame not removed", "err", err) // found again at the next start
	}
	delete(c.frames, d)
	c.used -= e.size
}

// openFrame gives length bytes of a file from off on, if just now they were the
// frame with the digest. Twice read, they need no memory.
func openFrame(path string, off int64, d fleet.Digest, length int) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(f, off, int64(length))}, make([]byte, piece))
	if err == nil && fleet.Digest(h.Sum(nil)) != d {
		err = errWrong
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &section{io.NewSectionReader(f, off, int64(length)), f}, nil
}

// section is a part of a file that closes it.
type section struct {
	io.Reader
	io.Closer
}

// freeSpace is how much of the disk is free for this process.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return int64(st.Bavail) * int64(st.Bsize), err
}
