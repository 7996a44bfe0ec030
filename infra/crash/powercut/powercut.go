// Package powercut makes what a power cut leaves of a real file system. The file
// system lies in an image on btrfs, and a snapshot of the btrfs folder is the image
// as it was at that moment, with a program at work on it:
//
//	loop ─ btrfs ─ disk.img ─ loop ─ ext4 or xfs, mounted at [Rig.Root]
//	             └ snapshot: disk.img when the power failed, mounted by [Cut.Mount]
//
// Mounting the snapshot's image replays its journal, as a machine does that comes
// up again. It needs root, loop devices and btrfs: [Lacking] says what is missing.
package powercut

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Lacking says why power cannot be cut on this machine; nil when it can.
func Lacking(fs string) error {
	if os.Geteuid() != 0 {
		return errors.New("it takes root to mount images")
	}
	for _, program := range []string{"mkfs.btrfs", "btrfs", "mkfs." + fs, "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return err
	}
	return nil
}

// Options say what disk the power of which fails.
type Options struct {
	Dir   string // empty, absolute: for images and mount points
	FS    string // "ext4" or "xfs"
	Mount string // further mount options, such as "commit=1"
	MiB   int    // size of the file system
}

// Rig is a mounted file system of which the power can be cut.
type Rig struct {
	Root string // where it is mounted

	o      Options
	volume string // the btrfs folder that is snapshotted
	cuts   int
}

// New makes and mounts the file system. When the machine does not let it, that is
// an error, see [Lacking].
func New(ctx context.Context, o Options) (*Rig, error) {
	r := &Rig{o: o, Root: filepath.Join(o.Dir, "disk"), volume: filepath.Join(o.Dir, "btrfs", "volume")}
	under, image := filepath.Join(o.Dir, "btrfs"), filepath.Join(o.Dir, "btrfs.img")
	for _, d := range []string{r.Root, under, filepath.Join(o.Dir, "cut")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := sparse(image, 16*int64(o.MiB)<<20+1<<30); err != nil {
		return nil, err
	}
	if err := run(ctx, "mkfs.btrfs", "-q", image); err != nil {
		return nil, err
	}
	if err := run(ctx, "mount", "-o", "loop,discard", image, under); err != nil {
		return nil, err
	}
	err := r.inner(ctx)
	if err != nil {
		return nil, errors.Join(err, run(ctx, "umount", under))
	}
	return r, nil
}

func (r *Rig) inner(ctx context.Context) error {
	if err := run(ctx, "btrfs", "-q", "subvolume", "create", r.volume); err != nil {
		return err
	}
	image := filepath.Join(r.volume, "disk.img")
	if err := sparse(image, int64(r.o.MiB)<<20); err != nil {
		return err
	}
	if err := run(ctx, "mkfs."+r.o.FS, "-q", image); err != nil {
		return err
	}
	return run(ctx, "mount", "-o", r.mountOptions(), image, r.Root)
}

func (r *Rig) mountOptions() string {
	if r.o.Mount == "" {
		return "loop"
	}
	return "loop," + r.o.Mount
}

// Cut is the disk as it was when the power failed.
type Cut struct {
	r   *Rig
	dir string
}

// Cut cuts the power: what is written from now on is not on its disk.
func (r *Rig) Cut(ctx context.Context) (*Cut, error) {
	r.cuts++
	c := &Cut{r, filepath.Join(r.o.Dir, "btrfs", fmt.Sprint("cut-", r.cuts))}
	return c, run(ctx, "btrfs", "-q", "subvolume", "snapshot", r.volume, c.dir)
}

// Mount lets the machine come up again: do is given the folder where the disk of
// the cut is mounted. Afterwards the disk is gone.
func (c *Cut) Mount(ctx context.Context, do func(root string) error) error {
	root := filepath.Join(c.r.o.Dir, "cut")
	options := c.r.mountOptions()
	if c.r.o.FS == "xfs" {
		options += ",nouuid" // its twin is mounted
	}
	err := run(ctx, "mount", "-o", options, filepath.Join(c.dir, "disk.img"), root)
	if err == nil {
		err = errors.Join(do(root), run(context.WithoutCancel(ctx), "umount", root))
	}
	return errors.Join(err, run(context.WithoutCancel(ctx), "btrfs", "-q", "subvolume", "delete", c.dir))
}

// Close unmounts everything.
func (r *Rig) Close() error {
	ctx := context.Background()
	return errors.Join(run(ctx, "umount", r.Root), run(ctx, "umount", filepath.Join(r.o.Dir, "btrfs")))
}

func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
