package oms

import (
	"bytes"
	"context"
)

// CheckOptions says how to look at a model.
type CheckOptions struct {
	// Ignore is relative paths to look over with everything below them, besides
	// what the signer left out: the bundle itself when it lies in the folder.
	// A signed file is missed even there.
	Ignore []string
	// IgnoreUnsigned accepts anything that is there and was not signed.
	IgnoreUnsigned bool
	Workers        int               // as in Options
	Progress       func(bytes int64) // as in Options
}

// Check reports whether the model at path, a folder or one file, is exactly what
// m says: every signed file whole and unchanged, nothing else, no symbolic links
// or special files. Paths that the signer left out are looked over as the
// specification says.
func (m Manifest) Check(ctx context.Context, path string, o CheckOptions) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	defer f.close()
	if f.only != "" && len(m.Resources) == 1 && m.Resources[0].Path == selfPath {
		r := m.Resources[0]
		r.Path = f.only
		m.Resources = []Resource{r}
	}
	found, err := f.files(ctx, append(m.ignores(), o.Ignore...), o.IgnoreUnsigned)
	if err != nil {
		return err
	}
	onDisk := make(map[string]int64, len(found))
	for _, e := range found {
		onDisk[e.path] = e.size
	}
	jobs := make([]job, 0, len(m.Resources))
	for i := range m.Resources {
		r := &m.Resources[i]
		size, ok := onDisk[r.Path]
		if !ok {
			return f.absent(r.Path)
		}
		last := i == len(m.Resources)-1 || m.Resources[i+1].Path != r.Path
		switch {
		case r.End < 0:
		case last && size > r.End:
			return errf(Uncovered, r.Path, "it has %d bytes, of which %d are signed", size, r.End)
		case size < r.End:
			return errf(Changed, r.Path, "it has %d bytes, the signature covers more", size)
		}
		jobs = append(jobs, job{r, size})
	}
	if !o.IgnoreUnsigned {
		for _, e := range found {
			if !m.has(e.path) {
				return errf(Extra, e.path, "it is there but was not signed")
			}
		}
	}
	h := hasher{folder: f, hash: m.hashType(), workers: o.Workers, progress: o.Progress}
	return h.run(ctx, jobs, func(r *Resource, sum []byte) error {
		if signed := r.digest(); !bytes.Equal(sum, signed) {
			return errf(Changed, r.Path, "bytes from %d have digest %x, signed is %x", r.Start, sum, signed)
		}
		return nil
	})
}

// ignores is everything to leave out: what the signer recorded, and the defaults
// unless they were signed.
func (m *Manifest) ignores() []string {
	out := append([]string(nil), m.Ignored...)
	for _, p := range defaultIgnores {
		if !m.signed(p) {
			out = append(out, p)
		}
	}
	return out
}
