package lambdamodel

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Release is verified files in this environment.
type Release struct {
	Ref  string       // "detector@1.5.0"
	Root fleet.Digest // names exactly these bytes
	Path string       // folder of the files
}

// served is a release in service, with what it means for the fleet.
type served struct {
	Release
	Bundle  fleet.Digest
	Counter uint64
	Since   time.Time // it was switched to
	Rollout fleet.RolloutID
	Arm     fleet.Arm
	Soak    time.Duration // watched so long
	Health  fleet.Health  // limits while it is watched
}

func (s *served) soaking(now time.Time) bool { return s != nil && now.Before(s.Since.Add(s.Soak)) }

// failure is why a release is quarantined in this environment.
type failure struct {
	Ref     string
	Code    telemetry.FailureCode
	Text    string
	Rollout fleet.RolloutID // the one it failed in; "": none
}

// memory is what an environment remembers from one process to the next.
type memory struct {
	Trust       trust.State
	Epoch       uint64
	Serving     *served
	Previous    *served            // the way back: of Past, or what the directive says besides
	Past        fleet.Past         // what was in service before Serving
	Ended       bool               // by Close: the process did not crash
	Restarts    int                // of processes that served Serving while it soaked
	Quarantined map[string]failure // by root
}

// member is one environment's part in the fleet, without the model's own type:
// use loads a release for the function and puts it in service, drop takes what
// is in service away. Both are called with or without mu and must not call back.
type member struct {
	o       Options
	me      *identity.Member
	rootPin fleet.Digest // the token's
	source  delivery.Source
	store   *cas.Store
	fetcher *delivery.Fetcher
	use     func(Release) error
	drop    func()
	ask     func(context.Context, trust.Nonce) (trust.SignedTime, error) // the coordinator for its time

	turn sync.Mutex // one refresh at a time

	mu        sync.Mutex
	verifier  trust.Verifier
	mem       memory
	trusted   *trust.Trusted
	want      fleet.Assignment // newest decision
	etag      string           // of the newest pack judged
	bucketTag string           // of the newest one judged out of the bucket
	distrust  trust.Rule       // that refused the newest pack, while no source has a good one; "": none
	behind    time.Duration    // the host's clock, by what the coordinator said; until a newer pack proves the time
	timeAsked time.Time        // when it was last asked for that
	refreshAt time.Time
	streak    int            // failed invocations in a row
	problem   error          // of the newest refresh
	failed    []fleet.Digest // releases that crashed or failed here, not yet counted
}

// newMember takes up what this environment was, or enrols it.
func newMember(ctx context.Context, o Options, use func(Release) error, drop func()) (*member, error) {
	tok, err := trust.ParseJoinToken(o.Token)
	if err != nil {
		return nil, err
	}
	if err := cas.MkdirAll(o.Dir); err != nil {
		return nil, err
	}
	me, root, err := identify(ctx, o, tok)
	if err != nil {
		return nil, err
	}
	m := &member{o: o, me: me, rootPin: tok.Root, use: use, drop: drop}
	m.ask = func(ctx context.Context, n trust.Nonce) (trust.SignedTime, error) { return me.Client().Time(ctx, n) }
	if m.store, err = cas.Open(filepath.Join(o.Dir, "store")); err != nil {
		return nil, err
	}
	if m.source, err = openSource(o.Source, me); err != nil {
		return nil, err
	}
	m.fetcher, err = delivery.New(delivery.Options{
		Store: m.store, Source: m.source, LowMemory: true, Reserve: 8 << 20, Logger: o.Logger, Keep: m.keep,
		Stall: 5 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	return m, m.remember(root)
}

// openSource is where releases are read from.
func openSource(where string, me *identity.Member) (delivery.Source, error) {
	switch {
	case where == "":
		return web.Open(web.Options{Sign: func(ctx context.Context, keys []string) ([]string, time.Time, error) {
			r, err := me.Client().Presign(ctx, keys)
			return r.URLs, r.Expires, err
		}})
	case strings.HasPrefix(where, "http://"), strings.HasPrefix(where, "https://"):
		return web.Open(web.Options{BaseURL: where})
	}
	return dir.Open(where)
}

// remember reads the state and settles how the process before ended. A state
// that is damaged counts as none, as everything in it can be had again: it then
// begins with the trust that enrolling gave, if any.
func (m *member) remember(root trust.State) error {
	data, err := os.ReadFile(m.path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cas.Classify("read state", m.path(), err)
	}
	if err != nil || json.Unmarshal(data, &m.mem) != nil {
		m.mem = memory{Trust: root}
	}
	if m.mem.Quarantined == nil {
		m.mem.Quarantined = map[string]failure{}
	}
	if s := m.mem.Serving; s != nil && !m.mem.Ended {
		m.mem.Restarts++
		m.failed = append(m.failed, s.Root)
		m.o.Logger.Warn("the process before ended while it served", "model", m.o.Model, "release", s.Ref, "restarts", m.mem.Restarts)
	}
	m.mem.Ended = false
	m.mem.Epoch = telemetry.NextEpoch(m.mem.Epoch, time.Now())
	return m.save()
}

func (m *member) path() string { return filepath.Join(m.o.Dir, "state.json") }

// save persists the memory; the caller holds mu or is alone.
func (m *member) save() error {
	data, err := json.Marshal(m.mem)
	if err != nil {
		return fault.New(fault.Internal, "write state", m.path(), err)
	}
	return cas.WriteFile(m.path(), data, 0o600)
}

// keep is what no collection may take: the release in service and the one before.
func (m *member) keep() []fleet.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []fleet.Digest
	for _, s := range []*served{m.mem.Serving, m.mem.Previous} {
		if s != nil {
			out = append(out, s.Bundle)
		}
	}
	return out
}

// due reports whether a refresh is, and draws the time of the next. The wall
// clock counts, since a frozen environment's monotonic one may stand still.
func (m *member) due(now time.Time) bool {
	now = now.Round(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	// A clock that was put back must not stop refreshes.
	if now.Before(m.refreshAt) && m.refreshAt.Sub(now) <= 2*m.o.Refresh {
		return false
	}
	spread := 0.8 + 0.4*rand.Float64()
	m.refreshAt = now.Add(time.Duration(spread * float64(m.o.Refresh)))
	return true
}

// refresh looks at the newest directive and does what it says.
func (m *member) refresh(ctx context.Context) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	// Neither a pack nor a bundle must end the function.
	err := guard.Do(m.o.Logger, "judge pack", string(m.o.Model), func() error { return m.pull(ctx) })
	if err == nil || fault.KindOf(err).Retry() {
		// Without news, what was decided may still wait to be done.
		if applyErr := guard.Do(m.o.Logger, "apply directive", string(m.o.Model), func() error { return m.apply(ctx) }); applyErr != nil {
			err = applyErr
		}
	}
	m.mu.Lock()
	m.problem = err
	m.mu.Unlock()
	return err
}

// pull fetches the trust pack and judges it.
func (m *member) pull(ctx context.Context) error {
	m.mu.Lock()
	etag := m.etag
	var listed []*x509.Certificate
	if m.trusted != nil {
		listed = m.trusted.DeviceCA
	}
	m.mu.Unlock()
	now := time.Now()
	at, outdated := m.me.Outdated(listed, now)
	if now.After(m.me.RenewAt()) || outdated && !at.After(now) {
		if _, err := m.me.Renew(ctx, identity.Renewal{Listed: listed}); err != nil {
			m.o.Logger.Warn("certificate was not renewed", "err", err)
		}
	}
	r, err := m.me.Client().Pack(ctx, m.me.Identity().Facts.Group, etag, 0)
	if err == nil && r.NotModified {
		return nil
	}
	if err == nil {
		err = m.offer(r.Pack, &m.etag, r.ETag)
	}
	if err == nil || m.o.Source == "" || ctx.Err() != nil {
		return err
	}
	// The coordinator is away or gave something that is not to be believed: the
	// bucket may have what a heartbeat put there.
	if m.pullBucket(ctx) == nil {
		return nil
	}
	return err
}

// pullBucket judges the pack that lies in the bucket, unless it did already.
func (m *member) pullBucket(ctx context.Context) error {
	m.mu.Lock()
	tag := m.bucketTag
	m.mu.Unlock()
	pack, tag, err := m.source.Get(ctx, m.me.Identity().Facts.Group.PackKey(), tag)
	if err != nil {
		return err
	}
	return m.offer(pack, &m.bucketTag, tag)
}

// offer judges a pack and notes its tag where it came from.
func (m *member) offer(pack []byte, where *string, tag string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	*where = tag // also when it is refused: the next one may do better
	err := m.judge(pack, m.late())
	switch {
	case err == nil:
		m.distrust = ""
	case !fault.Is(err, fault.Untrusted):
		*where = "" // there was no room to keep it: it must be given again
	default:
		m.distrust = trust.RuleOf(err)
	}
	return err
}

// judge verifies a pack and takes over what it decides; mu is held.
func (m *member) judge(pack []byte, now time.Time) error {
	facts := m.me.Identity().Facts
	if len(m.mem.Trust.Root) == 0 { // the state was lost: begin with the token's root again
		st, err := trust.StateFromPack(pack, m.rootPin)
		if err != nil {
			return err
		}
		m.mem.Trust = st
	}
	t, st, err := m.verifier.Verify(pack, m.mem.Trust, facts, now)
	if err != nil {
		m.o.Logger.Error("trust pack refused", "rule", trust.RuleOf(err), "err", err)
		if seen := m.mem.Trust.Audit.Refused(err); !seen.Equal(m.mem.Trust.Audit) { // another history: held from now on
			m.mem.Trust.Audit = seen
			return errors.Join(err, m.save())
		}
		return err
	}
	if t.Freshness == trust.Stale {
		return fault.Newf(fault.Untrusted, "verify pack", string(facts.Group), "%s has expired", t.Expired)
	}
	was := m.mem.Trust
	if !st.Equal(was) {
		m.mem.Trust = st
		if err := m.save(); err != nil {
			m.mem.Trust = was
			return err
		}
	}
	m.accept(&t, was)
	if err := m.revoke(&t); err != nil {
		return err
	}
	p, named := t.Directive.Placement(m.o.Model)
	if named {
		m.want = p.Assign(facts)
		m.unsay()
		m.backed()
		if err := m.obeyGates(p); err != nil {
			return err
		}
	}
	held := slices.ContainsFunc(t.Refused, func(r trust.Refusal) bool { return r.Model == m.o.Model && r.Held })
	if s := m.mem.Serving; s != nil && s.Arm == fleet.Exposed && !held && (!named || m.want.Release == nil) {
		// What only a rollout brought goes when that rollout is gone.
		m.mem.Serving, m.mem.Previous, m.mem.Past, m.want = nil, nil, nil, fleet.Assignment{}
		m.drop()
		return m.save()
	}
	// A placement that is not there, or that nobody backs, leaves what is in service.
	return nil
}

// quarantine refuses a root from now on; mu is held.
func (m *member) quarantine(root fleet.Digest, f failure) error {
	m.o.Logger.Error("release quarantined", "model", m.o.Model, "release", f.Ref, "code", f.Code.String(), "err", f.Text)
	m.mem.Quarantined[root.String()] = f
	if f.Code != telemetry.CodeGate { // which did not fail here
		m.failed = append(m.failed, root)
	}
	m.refreshAt = time.Time{} // what to serve instead may have to be fetched
	return m.save()
}
