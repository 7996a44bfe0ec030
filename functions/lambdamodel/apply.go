package lambdamodel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// choice is a release to serve.
type choice struct {
	served
	key  string // of its bundle
	size int64
}

// choose is what should be served now by the newest decision; false when what
// is in service should stay. mu is held.
func (m *member) choose(now time.Time) (choice, bool) {
	a := m.want
	if a.Release == nil {
		return choice{}, false
	}
	if _, bad := m.mem.Quarantined[a.Variant.Root.String()]; bad {
		if a.Fallback == nil {
			return choice{}, false
		}
		a.Release, a.Variant = a.Fallback, a.FallbackVariant
		if _, bad := m.mem.Quarantined[a.Variant.Root.String()]; bad {
			return choice{}, false
		}
	}
	c := choice{key: a.Release.BundlePath(a.Variant.Name), size: a.Variant.Size}
	c.Release = Release{Ref: a.Release.Ref(), Root: a.Variant.Root, Path: m.store.ReleaseDir(a.Variant.Bundle)}
	c.Bundle, c.Counter, c.Rollout, c.Arm = a.Variant.Bundle, a.Release.Counter, a.Rollout, a.Arm
	if x := a.Exposure; x != nil && x.Release.Has(a.Variant.Root) {
		c.Soak, c.Health = x.Soak.D(), x.Health
		if m.mem.Serving != nil && (now.Before(x.NotBefore) || !fleet.InWindow(x.Windows, now)) {
			return choice{}, false // not now
		}
	}
	return c, true
}

// apply brings what was chosen into service.
func (m *member) apply(ctx context.Context) error {
	for range 2 { // a release that fails here is followed by the one to fall back on
		c, ok := m.next(time.Now())
		if !ok {
			return nil
		}
		if err := m.fetch(ctx, c); err != nil {
			return err // the network's or this environment's trouble, never the release's
		}
		failed, err := m.enter(ctx, c)
		if !failed {
			return err
		}
	}
	return nil
}

// next is the choice, if it is not in service already.
func (m *member) next(now time.Time) (choice, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.choose(now)
	if ok && m.mem.Serving != nil && m.mem.Serving.Bundle == c.Bundle {
		m.mem.Serving.Rollout, m.mem.Serving.Arm = c.Rollout, c.Arm // only its part in a rollout may have changed
		return c, false
	}
	return c, ok
}

// fetch brings a release's verified files into the folder.
func (m *member) fetch(ctx context.Context, c choice) error {
	if m.store.HasRelease(c.Bundle) {
		return nil
	}
	m.mu.Lock()
	t := m.trusted
	m.mu.Unlock()
	if t == nil {
		return fault.Newf(fault.Transient, "fetch release", c.Ref, "no trust pack was believed yet")
	}
	backing, ok := t.Releases[c.key]
	if !ok {
		return fault.Newf(fault.Untrusted, "fetch release", c.Ref, "no publisher backs it")
	}
	bundle, _, err := m.source.Get(ctx, c.key, "")
	if err != nil {
		return err
	}
	manifest, err := backing.VerifyBundle(bundle)
	if err != nil {
		return err
	}
	if fleet.Digest(manifest.Root) != c.Root || fleet.DigestOf(bundle) != c.Bundle {
		return fault.Newf(fault.Untrusted, "fetch release", c.Ref, "the bundle is not the one the directive names")
	}
	_, err = m.fetcher.Install(ctx, delivery.Want{Key: c.Bundle, Manifest: manifest, Size: c.size}, nil)
	return err
}

// enter loads a release and puts it in service. failed says that it did not load
// and is quarantined.
func (m *member) enter(ctx context.Context, c choice) (failed bool, err error) {
	if err := m.try(c.Release); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		return true, m.quarantine(c.Root, failure{Ref: c.Ref, Code: telemetry.CodeLoad, Text: err.Error(), Rollout: c.Rollout})
	}
	m.mu.Lock()
	now := time.Now().Round(0)
	next := c.served
	next.Since = now
	if s := m.mem.Serving; s != nil {
		m.mem.Previous = s
	}
	if s := m.mem.Previous; s != nil && m.quarantined(s.Root) {
		m.mem.Previous = nil // there is no way back to what the gates failed
	}
	m.passed(&next)
	m.mem.Serving, m.mem.Restarts, m.streak = &next, 0, 0
	m.unsay()
	err = m.save()
	m.mu.Unlock()
	if err != nil {
		return false, err
	}
	m.o.Logger.Info("release in service", "model", m.o.Model, "release", c.Ref, "arm", c.Arm.String())
	if err := m.link(c.Path); err != nil {
		return false, err
	}
	_, err = m.store.Collect(ctx, m.keep()...)
	return false, err
}

// try loads a release; a panic is an error like others.
func (m *member) try(r Release) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return m.use(r)
}

// link points DIR/MODEL/current at the files in service, for who looks at /tmp.
func (m *member) link(path string) error {
	folder := filepath.Join(m.o.Dir, string(m.o.Model))
	next := filepath.Join(folder, ".next")
	err := os.MkdirAll(folder, 0o755)
	if err == nil {
		_ = os.Remove(next) // left by a crash, or not there
		err = os.Symlink(path, next)
	}
	if err == nil {
		err = os.Rename(next, filepath.Join(folder, "current"))
	}
	if err != nil {
		return fault.New(fault.Exhausted, "link release", folder, err)
	}
	return nil
}

// resume puts what the process before served in service again, unless it brought
// it down too often.
func (m *member) resume() error {
	m.mu.Lock()
	s := m.mem.Serving
	if s == nil || !m.store.HasRelease(s.Bundle) {
		m.mem.Serving = nil
		m.mu.Unlock()
		return nil
	}
	if s.soaking(time.Now()) && s.Health.Restarts > 0 && m.mem.Restarts >= s.Health.Restarts {
		err := m.retreat(telemetry.CodeCrashLoop, fmt.Sprintf("the function crashed %d times in %s", m.mem.Restarts, time.Since(s.Since).Round(time.Second)))
		m.mu.Unlock()
		return err
	}
	m.mu.Unlock()
	if err := m.try(s.Release); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.retreat(telemetry.CodeLoad, err.Error())
	}
	return nil
}

// retreat gives the release in service up for the one before, if that still
// loads; mu is held. Without one, the next refresh fetches the fallback.
func (m *member) retreat(code telemetry.FailureCode, why string) error {
	bad, back := m.mem.Serving, m.mem.Previous
	m.mem.Previous, m.mem.Restarts, m.streak = nil, 0, 0
	if back != nil && back.Root != bad.Root && m.store.HasRelease(back.Bundle) && m.try(back.Release) == nil {
		again := *back
		again.Since, again.Soak, again.Rollout, again.Arm = time.Now().Round(0), 0, bad.Rollout, bad.Arm
		m.passed(&again)
		m.mem.Serving = &again
	} else {
		m.passed(nil)
		m.mem.Serving = nil
		m.drop()
	}
	return m.quarantine(bad.Root, failure{Ref: bad.Ref, Code: code, Text: why, Rollout: bad.Rollout})
}

// settle counts an invocation toward the health of a release that is watched,
// and gives it up when it failed too often in a row.
func (m *member) settle(root fleet.Digest, failed bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.mem.Serving
	if s == nil || s.Root != root {
		return nil
	}
	if !failed {
		m.streak = 0
		return nil
	}
	m.streak++
	if s.Health.FailStreak == 0 || m.streak < s.Health.FailStreak || !s.soaking(time.Now()) {
		return nil
	}
	return m.retreat(telemetry.CodeUnhealthy, fmt.Sprintf("%d invocations failed in a row", m.streak))
}
