package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/infra/crash/powercut"
)

// AfterCut is what came of one power cut.
type AfterCut struct {
	At       time.Duration // since the agent was started
	Verified int64         // bytes of the release that the agent had fetched and verified
	Needed   int64         // bytes of the release that the update fetches in all
	Fetched  int64         // bytes that the next start still fetched
	Wrong    error         // with the disk, or with what the start made of it
}

// Reused is the share of the verified bytes that need not be fetched again. ok is
// false when hardly any were.
func (a AfterCut) Reused() (share float64, ok bool) {
	if a.Verified < a.Needed/20 {
		return 0, false
	}
	return min(1, float64(a.Needed-a.Fetched)/float64(a.Verified)), true
}

// CutUpdate lets a copy of the member, on the disk of a rig, update from a server,
// cuts the power at random moments of the time that takes, and looks at each of
// the disks that are left and at what a start makes of them.
func (m *Member) CutUpdate(ctx context.Context, rig *powercut.Rig, s *Server, cuts int, takes time.Duration, rng *rand.Rand) ([]AfterCut, error) {
	state := filepath.Join(rig.Root, "state")
	if err := os.RemoveAll(state); err != nil {
		return nil, err
	}
	c, err := m.Copy(state)
	if err != nil {
		return nil, err
	}
	c.Source = s.URL
	if out, err := exec.CommandContext(ctx, "sync", "-f", state).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("sync the copy: %w: %s", err, out)
	}
	moments := make([]time.Duration, cuts)
	for i := range moments {
		moments[i] = time.Duration(rng.Float64() * float64(takes))
	}
	slices.Sort(moments)
	if err := c.Start(ctx, 2); err != nil {
		return nil, err
	}
	began := time.Now()
	var after []AfterCut
	var disks []*powercut.Cut
	for _, at := range moments {
		select {
		case <-time.After(at - time.Since(began)):
		case <-c.Ended():
			return nil, fmt.Errorf("%w: %s", ErrEnded, c.Said())
		}
		a := AfterCut{At: time.Since(began), Verified: c.fetched(ctx)}
		cut, err := rig.Cut(ctx)
		if err != nil {
			return nil, errors.Join(err, c.Kill())
		}
		after, disks = append(after, a), append(disks, cut)
	}
	if err := c.Kill(); err != nil {
		return nil, err
	}
	for i, cut := range disks {
		if err := cut.Mount(ctx, func(root string) error { return m.comesUp(ctx, filepath.Join(root, "state"), &after[i]) }); err != nil {
			return nil, err
		}
	}
	return after, nil
}

// fetched is how much of the newest install was fetched and verified.
func (m *Member) fetched(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	l, err := m.client.Describe(ctx, Model)
	if err != nil || l.BytesFrom == nil {
		return 0 // it has not begun
	}
	return l.BytesFrom.Bucket
}

// comesUp looks at the disk of a cut, and starts on it.
func (m *Member) comesUp(ctx context.Context, state string, a *AfterCut) error {
	old, now := m.World.Releases[1], m.World.Releases[2]
	if a.Wrong = m.World.Check(state, old, now); a.Wrong != nil {
		return nil
	}
	rec, err := m.World.Recover(ctx, state, now)
	if err != nil {
		a.Wrong = fmt.Errorf("a start does not get over it: %w", err)
		return nil
	}
	a.Fetched, a.Needed = rec.Fetched, m.World.Changed()
	a.Wrong = m.World.CheckVisible(state, now)
	return nil
}

// Changed is how many bytes of the third release are not in the second.
func (w *World) Changed() int64 {
	half := w.Size / 2 / w.Shard * w.Shard
	return w.Size - half + int64(len(w.content(2)["notes/card.md"]))
}
