package disk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// blockSize is the unit in which data reaches a disk or does not.
const blockSize = 4096

type block [blockSize]byte

// inode is a file, a folder or a symbolic link. An image never changes one that
// another image has too: it changes a copy.
type inode struct {
	dir    bool
	target string // of a symbolic link
	mode   fs.FileMode
	size   int64
	blocks []*block       // nil: zeros
	names  map[string]int // of a folder: inode numbers
}

func (n *inode) copy() *inode {
	c := *n
	c.blocks = slices.Clone(n.blocks)
	c.names = maps.Clone(n.names)
	return &c
}

// Image is what a file system holds at a moment.
type Image struct {
	nodes map[int]*inode
	owned map[int]bool // changed since it was cloned
}

const rootNode = 1

// clone is an image of its own that shares what neither changes.
func (im *Image) clone() *Image {
	im.owned = map[int]bool{}
	return &Image{nodes: maps.Clone(im.nodes), owned: map[int]bool{}}
}

// change is the inode to be changed.
func (im *Image) change(id int) *inode {
	if !im.owned[id] {
		im.nodes[id] = im.nodes[id].copy()
		im.owned[id] = true
	}
	return im.nodes[id]
}

func (n *inode) resize(size int64) {
	count := int((size + blockSize - 1) / blockSize)
	if count < len(n.blocks) {
		n.blocks = n.blocks[:count]
	}
	for len(n.blocks) < count {
		n.blocks = append(n.blocks, nil)
	}
	if over := int(size % blockSize); over > 0 && size < n.size && n.blocks[count-1] != nil {
		b := *n.blocks[count-1]
		clear(b[over:]) // what is cut off does not come back
		n.blocks[count-1] = &b
	}
	n.size = size
}

// put writes data at off, block by block; variant says what becomes of each.
func (n *inode) put(data []byte, off int64, variant func(old *block) fate) {
	if end := off + int64(len(data)); end > n.size {
		n.resize(end)
	}
	for len(data) > 0 {
		i, at := off/blockSize, int(off%blockSize)
		piece := data[:min(len(data), blockSize-at)]
		old := n.blocks[i]
		var b block
		if old != nil {
			b = *old
		}
		switch variant(old) {
		case written:
			copy(b[at:], piece)
			n.blocks[i] = &b
		case zeroed:
			clear(b[at : at+len(piece)])
			n.blocks[i] = &b
		case garbled:
			for k := range piece {
				b[at+k] = 0xA5
			}
			n.blocks[i] = &b
		}
		data, off = data[len(piece):], off+int64(len(piece))
	}
}

// fate is what becomes of a block that was written and not synced.
type fate uint8

const (
	written fate = iota
	kept         // as it was before
	zeroed
	garbled // as a disk leaves a sector that it was writing
)

// load reads a folder as it lies on a disk where everything is synced.
func load(dir string) (*Image, error) {
	im := &Image{nodes: map[int]*inode{}, owned: map[int]bool{}}
	byIno := map[uint64]int{}
	var read func(path string, fi fs.FileInfo) (int, error)
	read = func(path string, fi fs.FileInfo) (int, error) {
		ino := fi.Sys().(*syscall.Stat_t).Ino
		if id, ok := byIno[ino]; ok {
			return id, nil
		}
		id := len(im.nodes) + 1
		n := &inode{mode: fi.Mode().Perm()}
		im.nodes[id], byIno[ino] = n, id
		switch {
		case fi.IsDir():
			n.dir, n.names = true, map[string]int{}
			es, err := os.ReadDir(path)
			if err != nil {
				return 0, err
			}
			for _, e := range es {
				fi, err := e.Info()
				if err != nil {
					return 0, err
				}
				if n.names[e.Name()], err = read(filepath.Join(path, e.Name()), fi); err != nil {
					return 0, err
				}
			}
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			n.target = to
			return id, err
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return 0, err
			}
			n.put(data, 0, func(*block) fate { return written })
		default:
			return 0, fmt.Errorf("%s is a %s", path, fi.Mode())
		}
		return id, nil
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if _, err := read(dir, fi); err != nil {
		return nil, err
	}
	return im, nil
}

// each visits what can be reached, folders before what is in them.
func (im *Image) each(visit func(path string, id int, n *inode) error) error {
	var walk func(path string, id int) error
	walk = func(path string, id int) error {
		n := im.nodes[id]
		if err := visit(path, id, n); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			if err := walk(filepath.Join(path, name), n.names[name]); err != nil {
				return err
			}
		}
		return nil
	}
	return walk("", rootNode)
}

// Write makes a folder that holds what the image does.
func (im *Image) Write(dir string) error {
	first := map[int]string{}
	return im.each(func(path string, id int, n *inode) error {
		path = filepath.Join(dir, path)
		if was, twice := first[id]; twice && !n.dir {
			return os.Link(was, path)
		}
		first[id] = path
		switch {
		case n.dir:
			return os.Mkdir(path, 0o755)
		case n.target != "":
			return os.Symlink(n.target, path)
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		var errs []error
		for i, b := range n.blocks {
			if b != nil {
				_, err := f.WriteAt(b[:min(blockSize, n.size-int64(i)*blockSize)], int64(i)*blockSize)
				errs = append(errs, err)
			}
		}
		return errors.Join(append(errs, f.Truncate(n.size), f.Chmod(n.mode), f.Close())...)
	})
}

// Sum is equal for images that hold the same.
func (im *Image) Sum() [32]byte {
	h := sha256.New()
	_ = im.each(func(path string, id int, n *inode) error { // visit never fails
		fmt.Fprintf(h, "%s %d %t %o %d %q", path, id, n.dir, n.mode, n.size, n.target)
		for _, b := range n.blocks {
			if b != nil {
				h.Write(b[:])
			} else {
				h.Write([]byte("hole"))
			}
		}
		return nil
	})
	return [32]byte(h.Sum(nil))
}

// find is the inode at a path relative to a folder's, following links.
func (im *Image) find(from int, path string, follow bool) (id int, ok bool) {
	id = from
	parts := strings.Split(filepath.ToSlash(path), "/")
	for i, part := range parts {
		if part == "" || part == "." {
			continue
		}
		n := im.nodes[id]
		next, ok := n.names[part]
		if !ok {
			return 0, false
		}
		if to := im.nodes[next].target; to != "" && (follow || i < len(parts)-1) {
			// Links in a state folder are relative and lead from a model's folder to a release.
			if next, ok = im.find(rootNode, filepath.Join(im.pathOf(id), to), true); !ok {
				return 0, false
			}
		}
		id = next
	}
	return id, true
}

// pathOf is where a folder lies.
func (im *Image) pathOf(dir int) (found string) {
	_ = im.each(func(path string, id int, n *inode) error {
		if id == dir {
			found = path
		}
		return nil
	})
	return found
}
