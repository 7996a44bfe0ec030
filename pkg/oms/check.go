package oms

import (
	"context"
	"os"
)

// Check reports whether the folder at dir is exactly what m says: every signed
// file whole and unchanged, nothing else, no symbolic links or special files.
// Paths that the signer left out are looked over as the specification says.
// paths names more files to look over, for example the bundle itself when it
// lies in the folder.
func (m Manifest) Check(ctx context.Context, dir string, paths ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &Error{Class: Reading, Path: dir, Err: err}
	}
	defer root.Close()
	found, err := walk(root, append(m.ignores(), paths...))
	if err != nil {
		return err
	}
	onDisk := make(map[string]int64, len(found))
	for _, f := range found {
		onDisk[f.path] = f.size
	}
	for _, f := range m.Files() {
		size, ok := onDisk[f.Path]
		switch {
		case !ok:
			return errf(Missing, f.Path, "it was signed but is not there")
		case f.Size >= 0 && size > f.Size:
			return errf(Uncovered, f.Path, "it has %d bytes, of which %d are signed", size, f.Size)
		case f.Size >= 0 && size < f.Size:
			return errf(Changed, f.Path, "it has %d bytes, the signature covers %d", size, f.Size)
		}
		delete(onDisk, f.Path)
	}
	for _, f := range found {
		if _, ok := onDisk[f.path]; ok {
			return errf(Extra, f.path, "it is there but was not signed")
		}
	}
	return hashAll(ctx, root, m.Resources, Options{}, func(r *Resource, sum Digest) error {
		if sum != r.Digest {
			return errf(Changed, r.Path, "bytes from %d have digest %s, signed is %s", r.Start, sum, r.Digest)
		}
		return nil
	})
}
