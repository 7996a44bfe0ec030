package disk

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/modelfleet/modelfleet/infra/crash/trace"
)

func fileMode(m uint32) fs.FileMode { return fs.FileMode(m).Perm() }

// replay does what one call did and reports whether that changed the disk.
func (d *Disk) replay(c trace.Call) (changed bool, err error) {
	if c.Failed() {
		return false, nil
	}
	switch c.Name {
	case "openat":
		return d.openat(c)
	case "close":
		return false, d.withFD(c, func(*handle) error { fd, err := c.Int(0); delete(d.open, fd); return err })
	case "fcntl", "dup", "dup3":
		if c.Name == "fcntl" && c.Arg(1) != "F_DUPFD_CLOEXEC" && c.Arg(1) != "F_DUPFD" {
			return false, nil
		}
		return false, d.withFD(c, func(h *handle) error { d.open[c.Ret] = h; return nil })
	case "write", "pwrite64", "ftruncate", "fallocate", "fchmod":
		return d.data(c)
	case "fsync", "fdatasync":
		err := d.withFD(c, func(h *handle) error { d.sync(c, h.node); changed = true; return nil })
		return changed, err
	case "sync_file_range":
		return false, nil // a hint: it promises nothing
	case "lseek":
		return false, d.withFD(c, func(h *handle) error { h.off = c.Ret; return nil })
	case "mkdirat", "mkdir", "symlinkat", "symlink":
		return d.create(c)
	case "unlinkat", "unlink", "rmdir":
		return d.unlink(c)
	case "renameat", "renameat2", "rename", "linkat", "link":
		return d.move(c)
	case "fchmodat", "chmod":
		return d.chmod(c)
	}
	return false, d.unknown(c)
}

// unknown refuses calls that the model does not know, if they are about its disk.
func (d *Disk) unknown(c trace.Call) error {
	for i := range c.Args {
		if fd, err := c.Int(i); err == nil && i < 3 && d.open[fd] != nil {
			return fmt.Errorf("the model does not know %s", c.Name)
		}
		if dir, _, ok, err := d.split(c, -1, i); err == nil && ok {
			return fmt.Errorf("the model does not know %s in folder %d", c.Name, dir)
		}
	}
	return nil
}

// withFD calls do with the open file of the first argument, if it is on the disk.
// One that strace saw on the disk and the model does not have is an error: a sync
// of it, left out, would look like a mistake of the program.
func (d *Disk) withFD(c trace.Call, do func(*handle) error) error {
	fd, err := c.Int(0)
	if err != nil {
		return err
	}
	if h := d.open[fd]; h != nil {
		return do(h)
	}
	if rel, under := strings.CutPrefix(c.Path(0), d.root); under && (rel == "" || rel[0] == '/') {
		return fmt.Errorf("%s of descriptor %d, and the model does not know that %s is open", c.Name, fd, c.Path(0))
	}
	return nil
}

func (d *Disk) openat(c trace.Call) (bool, error) {
	dir, base, ours, err := d.split(c, 0, 1)
	if err != nil || !ours {
		delete(d.open, c.Ret)
		return false, err
	}
	id, found := d.live.find(dir, base, !c.Has(2, "O_NOFOLLOW"))
	changed := false
	switch {
	case !found && !c.Has(2, "O_CREAT"):
		return false, fmt.Errorf("%s was opened and is not known", base)
	case !found:
		id = d.node(&inode{mode: 0o644})
		d.do(c, edit{node: dir, names: []name{{dir: dir, name: base, id: id}}})
		changed = true
	case c.Has(2, "O_TRUNC") && d.live.nodes[id].size > 0:
		d.do(c, edit{node: id, resize: new(int64)})
		changed = true
	}
	d.open[c.Ret] = &handle{node: id, append: c.Has(2, "O_APPEND")}
	return changed, nil
}

// node makes an inode, which no name leads to yet.
func (d *Disk) node(n *inode) int {
	id := len(d.live.nodes) + 1
	d.live.nodes[id], d.safe.nodes[id] = n, n.copy()
	return id
}

func (d *Disk) data(c trace.Call) (changed bool, err error) {
	err = d.withFD(c, func(h *handle) error {
		e := edit{node: h.node}
		switch c.Name {
		case "write", "pwrite64":
			b, err := c.Bytes(1)
			if err != nil {
				return err
			}
			e.data, e.off = b[:c.Ret], h.off
			if c.Name == "pwrite64" {
				if e.off, err = c.Int(3); err != nil {
					return err
				}
			} else {
				if h.append {
					e.off = d.live.nodes[h.node].size
				}
				h.off = e.off + c.Ret
			}
			if len(e.data) == 0 {
				return nil
			}
		case "ftruncate":
			size, err := c.Int(1)
			if err != nil {
				return err
			}
			e.resize = &size
		case "fallocate":
			off, err := c.Int(2)
			if err != nil {
				return err
			}
			length, err := c.Int(3)
			if err != nil {
				return err
			}
			size := max(off+length, d.live.nodes[h.node].size)
			e.resize = &size
			if c.Arg(1) != "0" {
				return fmt.Errorf("the model does not know fallocate mode %s", c.Arg(1))
			}
		case "fchmod":
			m, err := c.Int(1)
			if err != nil {
				return err
			}
			mode := uint32(m)
			e.mode = &mode
		}
		d.do(c, e)
		changed = true
		return nil
	})
	return changed, err
}

func (d *Disk) create(c trace.Call) (bool, error) {
	n, at := &inode{dir: true, names: map[string]int{}, mode: 0o755}, 0
	if c.Name == "symlink" || c.Name == "symlinkat" {
		to, err := c.Bytes(0)
		if err != nil {
			return false, err
		}
		n, at = &inode{target: string(to)}, 1
	}
	dirfd, path := at-1, at
	if c.Name == "mkdirat" || c.Name == "symlinkat" {
		dirfd, path = at, at+1
	}
	dir, base, ours, err := d.split(c, dirfd, path)
	if err != nil || !ours {
		return false, err
	}
	d.do(c, edit{node: dir, names: []name{{dir: dir, name: base, id: d.node(n)}}})
	return true, nil
}

func (d *Disk) unlink(c trace.Call) (bool, error) {
	dirfd, path := -1, 0
	if c.Name == "unlinkat" {
		dirfd, path = 0, 1
	}
	dir, base, ours, err := d.split(c, dirfd, path)
	if err != nil || !ours {
		return false, err
	}
	id, ok := d.live.nodes[dir].names[base]
	if !ok {
		return false, fmt.Errorf("%s was removed and is not known", base)
	}
	d.do(c, edit{node: dir, names: []name{{dir: dir, name: base, id: id, gone: true}}})
	return true, nil
}

// move is a rename, an exchange or a new link.
func (d *Disk) move(c trace.Call) (bool, error) {
	fromFD, from, toFD, to := 0, 1, 2, 3
	if c.Name == "rename" || c.Name == "link" {
		fromFD, from, toFD, to = -1, 0, -1, 1
	}
	dirA, a, oursA, err := d.split(c, fromFD, from)
	if err != nil {
		return false, err
	}
	dirB, b, oursB, err := d.split(c, toFD, to)
	if err != nil || !oursB && !oursA {
		return false, err
	}
	if !oursA || !oursB {
		return false, fmt.Errorf("%s between the disk and another", c.Name)
	}
	id, ok := d.live.nodes[dirA].names[a]
	if !ok {
		return false, fmt.Errorf("%s was moved and is not known", a)
	}
	e := edit{node: dirB}
	switch {
	case c.Name == "link" || c.Name == "linkat":
		e.names = []name{{dir: dirB, name: b, id: id}}
	case c.Has(4, "RENAME_EXCHANGE"):
		e.names = []name{{dir: dirA, name: a, id: d.live.nodes[dirB].names[b]}, {dir: dirB, name: b, id: id}}
	default:
		e.names = []name{{dir: dirA, name: a, id: id, gone: true}, {dir: dirB, name: b, id: id}}
	}
	d.do(c, e)
	return true, nil
}

func (d *Disk) chmod(c trace.Call) (bool, error) {
	dirfd, path := 0, 1
	if c.Name == "chmod" {
		dirfd, path = -1, 0
	}
	dir, base, ours, err := d.split(c, dirfd, path)
	if err != nil || !ours {
		return false, err
	}
	id, ok := d.live.find(dir, base, true)
	if !ok {
		return false, fmt.Errorf("the mode of %s was changed and it is not known", base)
	}
	m, err := c.Int(path + 1)
	if err != nil {
		return false, err
	}
	mode := uint32(m)
	d.do(c, edit{node: id, mode: &mode})
	return true, nil
}
