package cas

import (
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile makes path hold data, durably and at once: a reader, and a machine
// whose power fails at any moment, sees the old content or the new one, whole.
// It writes a temporary file in the same directory, syncs it, renames it and
// syncs the directory. Every file that matters is written by it or by
// [Publish]; the directory must exist.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+".tmp*")
	if err != nil {
		return Classify("write file", path, err)
	}
	tmp := f.Name()
	err = writeSynced(f, data, perm)
	if err == nil {
		err = Publish(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the name was never visible; leaving it would only be litter
		return Classify("write file", path, err)
	}
	return nil
}

func writeSynced(f *os.File, data []byte, perm fs.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync() // a failed sync is final: the pages may be gone, so it is never tried again
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Publish renames a file or folder, which the caller has synced, to its final
// name and syncs the directory that holds it, so that the name survives a power
// cut. The name it came from is a temporary one: nobody minds if that comes back.
func Publish(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// MkdirAll makes a directory and its missing parents, durably.
func MkdirAll(dir string) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return Classify("make folder", dir, err)
	}
	return SyncDir(parent)
}
