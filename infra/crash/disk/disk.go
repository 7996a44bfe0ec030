package disk

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/infra/crash/trace"
)

// Disk is a model disk under a program.
type Disk struct {
	root  string
	calls []trace.Call
	at    int
	err   error

	live    *Image // what the program sees
	safe    *Image // what is synced
	pending []edit // from safe to live, in order
	open    map[int64]*handle
	rng     *rand.Rand

	early *Disk // just before the sync that was replayed last ended; nil: nothing ran beside it
}

// handle is an open file.
type handle struct {
	node   int
	off    int64
	append bool
}

// edit is one change that is not synced. Exactly one of its kinds is set.
type edit struct {
	end    int // when it had ended
	node   int // whose sync makes it durable
	data   []byte
	off    int64
	resize *int64
	mode   *uint32
	names  []name
}

// name is a name that an edit gives or takes away.
type name struct {
	dir  int
	name string
	id   int
	gone bool
}

// Load begins with a folder, on which everything is synced, and the calls of the
// program that then worked on it. seed is for what chance decides.
func Load(before, root string, calls []trace.Call, seed uint64) (*Disk, error) {
	im, err := load(before)
	if err != nil {
		return nil, fmt.Errorf("load disk: %w", err)
	}
	return &Disk{
		root: root, calls: calls, live: im.clone(), safe: im, open: map[int64]*handle{}, rng: rand.New(rand.NewPCG(seed, 2)),
	}, nil
}

// Next replays calls up to the next one that changed anything, and reports whether
// there was one. The error is [Disk.Err]'s.
func (d *Disk) Next() bool {
	for d.at < len(d.calls) && d.err == nil {
		c := d.calls[d.at]
		d.early = d.beside(c)
		d.at++
		changed, err := d.replay(c)
		if err != nil {
			d.err = fmt.Errorf("replay line %d: %w", c.End, err)
		}
		if changed && err == nil {
			return true
		}
	}
	return false
}

// beside is the disk just before a sync ends, when what had begun by then is done.
// Calls are replayed by their ends, so that what ended later would come too late to
// be there without what is synced. Nil: c is no sync, or was alone.
func (d *Disk) beside(c trace.Call) *Disk {
	if c.Name != "fsync" && c.Name != "fdatasync" {
		return nil
	}
	var early *Disk
	for _, o := range d.calls[d.at+1:] {
		if o.Start >= c.End || o.Failed() || o.Name == "fsync" || o.Name == "fdatasync" || o.Name == "close" {
			continue
		}
		if early == nil {
			early = &Disk{
				root: d.root, live: d.live.clone(), safe: d.safe.clone(), pending: slices.Clone(d.pending), open: map[int64]*handle{}, rng: d.rng,
			}
			for fd, h := range d.open {
				own := *h
				early.open[fd] = &own
			}
		}
		// What counts on a call that ended later still had not been done by then.
		_, _ = early.replay(o)
	}
	return early
}

// Err is what ended the replay before its end.
func (d *Disk) Err() error { return d.err }

// Done is the call that was replayed last, for people.
func (d *Disk) Done() string {
	if d.at == 0 {
		return "nothing"
	}
	c := d.calls[d.at-1]
	return fmt.Sprintf("line %d, %s", c.End, c.Name)
}

// Live is what the program sees.
func (d *Disk) Live() *Image { return d.live.clone() }

// do makes a change.
func (d *Disk) do(c trace.Call, e edit) {
	e.end = c.End
	apply(d.live, e, func(*block) fate { return written })
	d.pending = append(d.pending, e)
}

// sync makes what had been done to an inode when c began durable.
func (d *Disk) sync(c trace.Call, node int) {
	d.pending = slices.DeleteFunc(d.pending, func(e edit) bool {
		if e.node != node || e.end >= c.Start {
			return false
		}
		apply(d.safe, e, func(*block) fate { return written })
		return true
	})
}

func apply(im *Image, e edit, variant func(*block) fate) {
	switch {
	case e.data != nil:
		im.change(e.node).put(e.data, e.off, variant)
	case e.resize != nil:
		im.change(e.node).resize(*e.resize)
	case e.mode != nil:
		im.change(e.node).mode = fileMode(*e.mode)
	}
	for _, n := range e.names {
		switch names := im.change(n.dir).names; {
		case !n.gone:
			names[n.name] = n.id
		case names[n.name] == n.id: // else the name is another's by now
			delete(names, n.name)
		}
	}
}

// Crashes are images that a power cut now may leave: everything done, nothing
// that was not synced, only names, only data, and draws by chance. After a sync
// they are those of the moment before it ended too, if other calls ran beside it.
func (d *Disk) Crashes(draws int) iter.Seq[*Image] {
	return func(yield func(*Image) bool) {
		if d.early != nil {
			for im := range d.early.Crashes(draws) {
				if !yield(im) {
					return
				}
			}
		}
		data := func(e edit) bool { return len(e.names) == 0 }
		for i := range 4 + draws {
			var keep func(edit) bool
			whole := true
			switch i {
			case 0:
				keep = func(edit) bool { return true }
			case 1:
				keep = func(edit) bool { return false }
			case 2:
				keep = func(e edit) bool { return !data(e) }
			case 3:
				keep = data
			default:
				keep, whole = d.chance(), false
			}
			if !yield(d.crash(keep, whole)) {
				return
			}
		}
	}
}

// chance is a way to lose things: names up to some moment or each for itself, data
// more or less.
func (d *Disk) chance() func(edit) bool {
	ordered, until := d.rng.IntN(2) == 0, d.rng.IntN(len(d.pending)+1)
	some, most := d.rng.Float64(), d.rng.Float64()
	last := -1
	if until < len(d.pending) {
		last = d.pending[until].end
	}
	return func(e edit) bool {
		switch {
		case len(e.names) == 0:
			return d.rng.Float64() < most
		case ordered:
			return last < 0 || e.end < last
		}
		return d.rng.Float64() < some
	}
}

func (d *Disk) crash(keep func(edit) bool, whole bool) *Image {
	im := d.safe.clone()
	for _, e := range d.pending {
		if !keep(e) {
			continue
		}
		apply(im, e, func(old *block) fate {
			if whole {
				return written
			}
			f := []fate{written, written, written, kept, zeroed, garbled}[d.rng.IntN(6)]
			if old != nil && f != written {
				return kept // a block that was there is overwritten in one piece
			}
			return f
		})
	}
	return im
}

// split is the folder and the last name of a path argument. ok is false for a path
// that is not on the disk.
func (d *Disk) split(c trace.Call, dirfd, path int) (dir int, base string, ok bool, err error) {
	b, err := c.Bytes(path)
	if err != nil {
		return 0, "", false, err
	}
	p, from := string(b), rootNode
	if filepath.IsAbs(p) {
		rel, under := strings.CutPrefix(filepath.Clean(p), d.root)
		if !under || rel != "" && rel[0] != '/' {
			return 0, "", false, nil
		}
		p = "." + rel
	} else {
		if dirfd < 0 || strings.HasPrefix(c.Arg(dirfd), "AT_FDCWD") {
			return 0, "", false, nil // the program works elsewhere
		}
		fd, err := c.Int(dirfd)
		if err != nil {
			return 0, "", false, err
		}
		h := d.open[fd]
		if h == nil {
			return 0, "", false, nil
		}
		from = h.node
	}
	parent, ok := d.live.find(from, filepath.Dir(p), true)
	if !ok {
		return 0, "", false, fmt.Errorf("%s: the folder of %s is not known", c.Name, p)
	}
	return parent, filepath.Base(p), true, nil
}
