package artifact

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Store is what an upload needs of a bucket; registry.Store offers it.
type Store interface {
	Getter
	Create(ctx context.Context, key string, body registry.Body) (created bool, err error)
}

// UploadOptions says how a folder is uploaded. The zero value is useful.
type UploadOptions struct {
	Parallel int                  // files under way at once; default 2
	TempDir  string               // where packed objects are built; default os.TempDir
	Progress func(UploadProgress) // called now and then, by one goroutine at a time
}

// UploadProgress is how far an upload is.
type UploadProgress struct {
	Path  string // the file that moved last
	Done  int64  // plain bytes settled
	Total int64
}

// UploadStats is what an upload did.
type UploadStats struct {
	Files   int   // of the release
	Bytes   int64 // plain, of all files
	Sent    int64 // bytes of objects that were made
	Objects int   // objects that were made
	Reused  int   // files whose content was in the bucket already, or is that of another one
	Saved   int64 // their plain bytes
	Packed  int64 // bytes a member fetches when it takes the smallest objects
	// Found are the objects of an earlier upload that was cut short in the middle of
	// a file: they were there already, and were not sent again.
	Found      int
	FoundBytes int64
}

// Upload puts the files of a folder into a bucket. Doing it again does nothing;
// content that is there already, from any release, is not sent. A file that is
// not what the manifest signed is Invalid: the folder changed since.
func Upload(ctx context.Context, st Store, dir string, files []File, o UploadOptions) (UploadStats, error) {
	if o.Parallel <= 0 {
		o.Parallel = 2
	}
	packer, err := NewPacker()
	if err != nil {
		return UploadStats{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return UploadStats{}, fault.New(fault.NotFound, "upload", dir, err).WithHint("give the folder that the manifest was made of")
	}
	defer root.Close()
	u := &uploader{st: st, o: o, packer: packer, root: root}
	jobs, err := u.prepare(files)
	if err != nil {
		return UploadStats{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Parallel)
	for _, f := range jobs {
		g.Go(func() error { return u.file(ctx, f) })
	}
	err = g.Wait()
	return u.stats, err
}

// uploader is one call of Upload.
type uploader struct {
	st     Store
	o      UploadOptions
	packer *Packer
	root   *os.Root

	mu    sync.Mutex
	stats UploadStats
	done  UploadProgress
}

// prepare learns the files' sizes and leaves one file for each content.
func (u *uploader) prepare(files []File) ([]File, error) {
	var jobs []File
	seen := map[fleet.Digest]bool{}
	for _, f := range files {
		fi, err := u.root.Lstat(filepath.FromSlash(f.Path))
		if err != nil {
			return nil, fault.New(fault.Invalid, "upload", f.Path, err)
		}
		if !fi.Mode().IsRegular() || (f.Size >= 0 && f.Size != fi.Size()) {
			return nil, changed(f.Path)
		}
		f.Size = fi.Size()
		if f.Whole() {
			f.FrameSize = FrameSize
		}
		u.stats.Files++
		u.stats.Bytes += f.Size
		if seen[f.Digest] {
			u.stats.Reused++
			u.stats.Saved += f.Size
			u.done.Done += f.Size
			continue
		}
		seen[f.Digest] = true
		jobs = append(jobs, f)
	}
	u.done.Total = u.stats.Bytes
	return jobs, nil
}

// file uploads one file. The index of the plain object is written last: where
// it is, everything is.
func (u *uploader) file(ctx context.Context, f File) error {
	rawKey, fullKey := RawKey(f.Digest), FullKey(f.Digest)
	if x, ok := u.uploaded(ctx, f); ok {
		u.note(func(s *UploadStats) { s.Reused++; s.Saved += f.Size; s.Packed += smaller(x) })
		u.settle(f.Path, f.Size)
		return nil
	}
	src, err := u.root.Open(filepath.FromSlash(f.Path))
	if err != nil {
		return fault.New(fault.Invalid, "upload", f.Path, err)
	}
	defer src.Close()
	spool, err := newSpool(u.o.TempDir, "modelfleet-pack-*")
	if err != nil {
		return fault.New(fault.Exhausted, "upload", f.Path, err).WithHint(freeTemp)
	}
	defer spool.Close()
	m := &fileMeter{u: u, file: f}
	p, err := u.pack(ctx, f, src, spool, m)
	if err != nil {
		return err
	}
	n := p.full.PackedSize()
	if n == 0 || !worthIt(n, f.Size) {
		n = 0
	}
	m.sends = f.Size + n
	if err := u.create(ctx, rawKey, registry.Body{Reader: m.reading(src, f.Size), Size: f.Size, SHA256: p.rawSum}); err != nil {
		return err
	}
	if n > 0 {
		if err := u.create(ctx, fullKey, registry.Body{Reader: m.reading(spool, n), Size: n, SHA256: p.fullSum}); err != nil {
			return leftover(err)
		}
		if err := u.create(ctx, IndexKey(fullKey), registry.BodyOf(p.full.Encode())); err != nil {
			return leftover(err)
		}
		p.raw.FullSize = n
	}
	u.note(func(s *UploadStats) { s.Packed += smaller(p.raw) })
	if err := u.create(ctx, IndexKey(rawKey), registry.BodyOf(p.raw.Encode())); err != nil {
		return err
	}
	m.whole()
	return nil
}

// uploaded reports whether a file is in the bucket, whole. Any doubt means no:
// making objects again is harmless.
func (u *uploader) uploaded(ctx context.Context, f File) (Index, bool) {
	x, err := getIndex(ctx, u.st, RawKey(f.Digest), Raw, f)
	return x, err == nil
}

func smaller(x Index) int64 {
	if x.FullSize > 0 {
		return x.FullSize
	}
	return x.Size
}

func (u *uploader) create(ctx context.Context, key string, b registry.Body) error {
	made, err := u.st.Create(ctx, key, b)
	u.note(func(s *UploadStats) {
		switch {
		case made:
			s.Objects++
			s.Sent += b.Size
		case err == nil:
			s.Found++
			s.FoundBytes += b.Size
		}
	})
	return err
}

func (u *uploader) note(add func(*UploadStats)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	add(&u.stats)
}

func (u *uploader) settle(path string, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done.Path = path
	u.done.Done += n
	if u.o.Progress != nil {
		u.o.Progress(u.done)
	}
}

func changed(path string) error {
	return fault.Newf(fault.Invalid, "upload", path, "the file is not what was signed").
		WithHint("the folder changed since it was signed; sign and publish it again")
}
