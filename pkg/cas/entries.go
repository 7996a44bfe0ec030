package cas

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Entries are the files of a release that is here, by path: what a later release
// of the model may be a small difference to. A file that is not, or no longer,
// the store's own (it was found damaged and set aside) is left out. A release
// that is not here is NotFound.
func (s *Store) Entries(key fleet.Digest) ([]Entry, error) {
	dir := path.Join("releases", key.String())
	if !s.HasRelease(key) {
		return nil, notHere("list release", key)
	}
	names, err := s.byInode()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	err = fs.WalkDir(s.root.FS(), dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := s.root.Lstat(p)
		if err != nil {
			return err
		}
		if d, ok := names[inode(fi)]; ok && fi.Mode().IsRegular() {
			entries = append(entries, Entry{Path: strings.TrimPrefix(p, dir+"/"), Digest: d, Size: fi.Size()})
		}
		return nil
	})
	return entries, Classify("list release", key.Short(), err)
}

// byInode are the store's files by inode: a release's names are links to them.
func (s *Store) byInode() (map[uint64]fleet.Digest, error) {
	files, err := s.Files()
	if err != nil {
		return nil, err
	}
	names := map[uint64]fleet.Digest{}
	for _, d := range files {
		fi, err := s.root.Lstat(filePath(d))
		if errors.Is(err, fs.ErrNotExist) {
			continue // collected meanwhile: no release has it
		}
		if err != nil {
			return nil, Classify("list files", d.Short(), err)
		}
		names[inode(fi)] = d
	}
	return names, nil
}

// inode is a file's number; the store lies in one file system.
func inode(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
