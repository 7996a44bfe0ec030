package cas

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// WriteFile makes path hold data, durably and at once: a reader, and a machine
// whose power fails at any moment, sees the old content or the new one, whole.
// It writes a temporary file in the same directory, syncs it, renames it and
// syncs the directory. Every file that matters is written by it or by
// [Publish]; the directory must exist.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	err := writeRenamed(path, data, perm)
	if err == nil {
		err = SyncDir(filepath.Dir(path))
	}
	return Classify("write file", path, err)
}

// writeRenamed is [WriteFile] but for the sync of the directory.
func writeRenamed(path string, data []byte, perm fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+tempMark+"*")
	if err != nil {
		return err
	}
	err = writeSynced(f, data, perm)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the name was never visible; leaving it would only be litter
	}
	return err
}

// tempMark is in the names of temporary files, after a dot and the final name.
const tempMark = ".tmp"

// Sweep removes the temporary files of writes that were cut short. Nobody may be
// writing files of the directory. On a read-only file system they stay.
func Sweep(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return Classify("sweep", dir, err)
	}
	for _, e := range names {
		if !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), tempMark) || !e.Type().IsRegular() {
			continue
		}
		err := os.Remove(filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EROFS) {
			return Classify("sweep", dir, err)
		}
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

// Settle makes durable what a process that was killed had done in a directory:
// this one sees it, and must not count on it before. A read-only file system has
// nothing to settle, and what lies on it is served all the same.
func Settle(dir string) error {
	if err := SyncDir(dir); err != nil && !errors.Is(err, syscall.EROFS) {
		return Classify("settle folder", dir, err)
	}
	return nil
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
