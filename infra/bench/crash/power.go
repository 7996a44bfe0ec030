package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/netlimit"
	"github.com/modelfleet/modelfleet/infra/crash"
	"github.com/modelfleet/modelfleet/infra/crash/powercut"
)

// cutsAnUpdate is how often the power is cut in the course of one update.
const cutsAnUpdate = 10

// power cuts the power of file systems that an agent updates on.
func (b *bench) power(ctx context.Context) (err error) {
	m, done, err := b.place(ctx, false, 256<<10, b.n.large<<18)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	s, err := m.World.Serve(25 * netlimit.Mbit) // so slow that an update takes a while, as a large one does
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	_, takes, err := m.Undisturbed(ctx, s, filepath.Join(m.World.Dir, "clean"))
	if err != nil {
		return err
	}
	b.o.Logf("an update of %d MiB by 25 Mbit/s takes %.1f s", m.World.Changed()>>20, takes.Seconds())
	var reused []float64
	for _, fs := range []string{"ext4", "xfs"} {
		if err := powercut.Lacking(fs); err != nil {
			b.o.Logf("SKIPPED: power cuts of %s: %v", fs, err)
			continue
		}
		var t crash.Tally
		shares, err := b.cutOne(ctx, m, s, fs, takes, &t)
		if err != nil {
			return err
		}
		reused = append(reused, shares...)
		if err := b.tally("power cuts of "+fs, t); err != nil {
			return err
		}
	}
	b.shares("verified bytes reused after a power cut", reused)
	return nil
}

func (b *bench) cutOne(ctx context.Context, m *crash.Member, s *crash.Server, fs string, takes time.Duration, t *crash.Tally) (shares []float64, err error) {
	rig, err := powercut.New(ctx, powercut.Options{Dir: filepath.Join(m.World.Dir, "rig-"+fs), FS: fs, MiB: int(2*b.n.large) + 384})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	for t.Tried < b.n.cuts {
		after, err := m.CutUpdate(ctx, rig, s, min(cutsAnUpdate, b.n.cuts-t.Tried), takes, b.rng)
		if err != nil {
			return nil, err
		}
		for _, a := range after {
			t.Add(fmt.Sprintf("%s, after %s", fs, a.At), a.Wrong)
			if share, ok := a.Reused(); ok && a.Wrong == nil {
				shares = append(shares, share)
			}
		}
		b.o.Logf("%s: %d power cuts, %d bad", fs, t.Tried, t.Bad)
	}
	return shares, nil
}

// anchor cuts the power within seconds after a fetch that syncs nothing said that it
// was done.
func (b *bench) anchor(ctx context.Context) (err error) {
	if err := powercut.Lacking("ext4"); err != nil {
		b.o.Logf("SKIPPED: the anchor's power cuts: %v", err)
		return nil
	}
	dir, err := os.MkdirTemp(b.o.Work, "anchor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rig, err := powercut.New(ctx, powercut.Options{Dir: dir, FS: "ext4", MiB: 512})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	data := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	n := min(b.n.cuts, 50)
	lost := 0
	for range n {
		whole, err := b.cutNaive(ctx, rig, data)
		if err != nil {
			return err
		}
		if !whole {
			lost++
		}
	}
	b.figure("write and rename without a sync, as s5cmd does: torn or missing", float64(lost), fmt.Sprintf("of %d power cuts", n))
	return nil
}

// cutNaive writes a file under a name it never had, renames it, waits up to five
// seconds and cuts the power; whole is whether the file is there, whole.
func (b *bench) cutNaive(ctx context.Context, rig *powercut.Rig, data []byte) (whole bool, err error) {
	path := filepath.Join(rig.Root, "model.bin")
	if err := os.WriteFile(path+".part", data, 0o644); err != nil {
		return false, err
	}
	if err := os.Rename(path+".part", path); err != nil {
		return false, err
	}
	select {
	case <-time.After(time.Duration(b.rng.Float64() * 5 * float64(time.Second))):
	case <-ctx.Done():
		return false, ctx.Err()
	}
	cut, err := rig.Cut(ctx)
	if err != nil {
		return false, err
	}
	err = cut.Mount(ctx, func(root string) error {
		got, err := os.ReadFile(filepath.Join(root, "model.bin"))
		whole = err == nil && bytes.Equal(got, data)
		return nil
	})
	return whole, errors.Join(err, os.Remove(path))
}
