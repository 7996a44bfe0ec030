package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Admission is what taking up a publisher's role changed.
type Admission struct {
	Team     fleet.Team
	Version  int64
	Added    []trust.Entry // newly listed, each with all its variants
	Delisted []fleet.Release
	Floors   map[fleet.ModelName]uint64 // raised
	Reason   string                     // of the newest version, as the publisher signed it
	Ignored  []error                    // versions in the bucket that the team's keys did not sign: the first few and the last
	// Vouched says who signed what was added without a key, by ref. It is the
	// coordinator's to find out, where the policy asks for it.
	Vouched map[string]string
	// Writes are TUF's copies of the new bundles, for clients other than ours.
	// Do them before the next Sign's.
	Writes []Write

	undo func()
}

// Undo takes the admission back; it must be done before anything else is.
func (a Admission) Undo() {
	if a.undo != nil {
		a.undo()
	}
}

// maxIgnored caps the versions that an admission names as ignored.
const maxIgnored = 8

const admitOp = "admit release"

// Admit takes up the newest version of a publisher's role that its keys signed,
// checked as a member would and more: paths, bundles with their OMS signatures,
// counters that only grow, versions that never change, models that another team
// owns. Members see it with the next Sign or Refresh. Nothing new is no error:
// Version is then what it was and the lists are empty.
func (r *Repository) Admit(ctx context.Context, name fleet.Team, now time.Time) (Admission, error) {
	role := trust.RoleOf(name)
	r.mu.Lock()
	pol, old := r.policy, r.teams[name]
	r.mu.Unlock()
	if pol.delegated(role) == nil {
		return Admission{}, fault.Newf(fault.NotFound, admitOp, role, "the policy knows no team %s", name).
			WithHint("use one of the teams %v, or have the keeper of the policy add it", r.Teams())
	}
	a := Admission{Team: name, Version: old.role.Version}
	var pick *candidate
	err := r.probe(ctx, role, r.nextVersion(name), func(c candidate) {
		if c.err == nil {
			pick = &c
		} else {
			a.Ignored = append(a.Ignored[:min(len(a.Ignored), maxIgnored-1)], trust.Violated(trust.RulePublisher, admitOp, fmt.Sprintf("%s version %d", role, c.version), c.err).
				WithHint("find who put %s into the bucket; publish, which passes over it, and only then remove it", trust.MetadataKey(role, c.version)))
		}
	})
	if err != nil {
		return Admission{}, err
	}
	if pick == nil {
		if len(a.Ignored) > 0 {
			return a, a.Ignored[len(a.Ignored)-1]
		}
		return a, nil
	}
	fresh, err := r.inspect(ctx, name, old.role, *pick, now, &a)
	if err != nil {
		return Admission{}, wrap(err, admitOp, fmt.Sprintf("%s version %d", role, pick.version))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.teams[name].role.Version != old.role.Version {
		return Admission{}, fault.Newf(fault.Conflict, admitOp, role, "it was admitted meanwhile")
	}
	if err := r.ownsModels(name, fresh.role); err != nil {
		return Admission{}, trust.Violated(trust.RuleOwner, admitOp, role, err)
	}
	was, had, dirty := r.teams[name], r.teams[name].raw != nil, r.dirty
	former, owned := r.former[name]
	undo := func() {
		if r.teams[name], r.dirty = was, dirty; !had {
			delete(r.teams, name)
		}
		if owned {
			r.former[name] = former
		}
	}
	r.teams[name], r.dirty = fresh, true
	delete(r.former, name)
	if err := r.packable(); err != nil {
		undo()
		return Admission{}, trust.Violated(trust.RuleSize, admitOp, role, err).WithHint("have the teams delist releases that nobody runs any more")
	}
	a.undo = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		undo()
	}
	a.Version = fresh.role.Version
	return a, nil
}

// packable checks that the packs of all groups have room for the teams' roles.
func (r *Repository) packable() error {
	if !r.current.stamped() {
		return nil
	}
	for g := range r.current.directives {
		if _, err := r.pack(r.current, g); err != nil {
			return fmt.Errorf("group %s: %w", g, err)
		}
	}
	return nil
}

// nextVersion is the first version of a team's role that was not admitted yet.
// The snapshot counts even when the role itself no longer verifies.
func (r *Repository) nextVersion(name fleet.Team) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.teams[name].role.Version
	if m := r.current.snapshotMeta; m != nil {
		if info := m.Signed.Meta[trust.RoleOf(name)+".json"]; info != nil {
			v = max(v, info.Version)
		}
	}
	return v + 1
}

// inspect applies to an authentic role that follows old everything that does not
// depend on other teams, and fills in what it changes.
func (r *Repository) inspect(ctx context.Context, name fleet.Team, old trust.TeamRole, c candidate, now time.Time, a *Admission) (team, error) {
	r.mu.Lock()
	pol := r.policy
	r.mu.Unlock()
	if !c.meta.Signed.Expires.After(now) {
		return team{}, &trust.Violation{Rule: trust.RuleExpired, Err: fmt.Errorf("it expired on %s", c.meta.Signed.Expires.Format(time.DateOnly))}
	}
	tr, err := trust.ReadTeamRole(c.meta)
	if err != nil {
		return team{}, err
	}
	if err := tr.PathsOf(pol.meta.Signed.Delegations, name); err != nil {
		return team{}, err
	}
	keys, err := trust.DelegatedKeys(pol.meta.Signed.Delegations, trust.RoleOf(name))
	if err != nil {
		return team{}, err
	}
	if err := unchanged(old, tr); err != nil {
		return team{}, err
	}
	for _, path := range slices.Sorted(maps.Keys(tr.Entries)) {
		if _, ok := old.Entries[path]; ok {
			continue
		}
		e := tr.Entries[path]
		body, err := r.fetch(ctx, path)
		if fault.Is(err, fault.NotFound) {
			return team{}, fault.New(fault.NotFound, "read bundle", path, err).
				WithHint("upload the bundle before the role: publish again")
		} else if err != nil {
			return team{}, err
		}
		if want := c.meta.Signed.Targets[path].Length; int64(len(body)) != want {
			return team{}, &trust.Violation{Rule: trust.RuleBundle, Err: fmt.Errorf("%s has %d bytes, the role lists %d", path, len(body), want)}
		}
		if _, err := (trust.Backing{Entry: e, Keys: keys}).VerifyBundle(body); err != nil {
			return team{}, err
		}
		a.Writes = append(a.Writes, Write{Key: trust.TargetKey(path, e.Release.Variants[0].Bundle), Body: body})
	}
	if err := a.compare(old, tr); err != nil {
		return team{}, err
	}
	a.Reason, _ = c.meta.Signed.UnrecognizedFields[fieldReason].(string)
	for model, floor := range tr.Floors {
		if floor > old.Floors[model] {
			if a.Floors == nil {
				a.Floors = map[fleet.ModelName]uint64{}
			}
			a.Floors[model] = floor
		}
	}
	return team{raw: c.raw, role: tr}, nil
}

// unchanged checks that what stays listed stays as it was, that new counters are
// above old ones, and that floors did not fall.
func unchanged(old, next trust.TeamRole) error {
	top := map[fleet.ModelName]uint64{}
	for path, e := range old.Entries {
		m := e.Release.Model
		top[m] = max(top[m], e.Release.Counter)
		if n, ok := next.Entries[path]; ok && !reflect.DeepEqual(n, e) && !again(e, n) {
			return &trust.Violation{Rule: trust.RuleImmutable, Err: fmt.Errorf("%s was published with other content or facts", path)}
		}
	}
	for path, e := range next.Entries {
		if o, ok := old.Entries[path]; (!ok || again(o, e)) && e.Release.Counter <= top[e.Release.Model] {
			return &trust.Violation{Rule: trust.RuleImmutable, Err: fmt.Errorf("%s has counter %d, which is not above %d", path, e.Release.Counter, top[e.Release.Model])}
		}
	}
	for m, floor := range old.Floors {
		if next.Floors[m] < floor {
			return &trust.Violation{Rule: trust.RuleFloor, Err: fmt.Errorf("the floor of %s fell from %d to %d", m, floor, next.Floors[m])}
		}
	}
	return nil
}

// again reports whether a release was delisted and listed again since: all of it is
// as it was, but for a counter that grew.
func again(old, next trust.Entry) bool {
	grew := next.Release.Counter > old.Release.Counter
	next.Release.Counter = old.Release.Counter
	return grew && reflect.DeepEqual(old, next)
}

// compare fills in what the next role adds and takes away.
func (a *Admission) compare(old, next trust.TeamRole) error {
	was, err := merge(old)
	if err != nil {
		return err
	}
	is, err := merge(next)
	if err != nil {
		return err
	}
	find := func(es []trust.Entry, e trust.Entry) *trust.Entry {
		i := slices.IndexFunc(es, func(x trust.Entry) bool { return x.Release.Ref() == e.Release.Ref() })
		if i < 0 {
			return nil
		}
		return &es[i]
	}
	for _, e := range is {
		o := find(was, e)
		if o != nil && len(o.Release.Variants) != len(e.Release.Variants) {
			return &trust.Violation{Rule: trust.RuleImmutable, Err: fmt.Errorf("%s was published with %d variants, now has %d", e.Release.Ref(), len(o.Release.Variants), len(e.Release.Variants))}
		}
		if o == nil || e.Release.Counter != o.Release.Counter {
			a.Added = append(a.Added, e)
		}
	}
	for _, e := range was {
		if find(is, e) == nil {
			a.Delisted = append(a.Delisted, e.Release)
		}
	}
	return nil
}

// ownsModels refuses a release, or a floor, of a model that another team has a
// release of, also under keys that were replaced since.
func (r *Repository) ownsModels(name fleet.Team, next trust.TeamRole) error {
	owners := maps.Clone(r.former)
	for other, t := range r.teams {
		owners[other] = t.role
	}
	delete(owners, name)
	for _, other := range slices.Sorted(maps.Keys(owners)) {
		for _, e := range owners[other].Entries {
			if next.Has(e.Release.Model) {
				return fmt.Errorf("model %s belongs to team %s", e.Release.Model, other)
			}
		}
	}
	return nil
}

// merge joins the variants of each release. All of a release's variants must
// agree on everything else, and no two releases of a model share a counter.
func merge(t trust.TeamRole) ([]trust.Entry, error) {
	byRef := map[string]*trust.Entry{}
	counters := map[string]string{}
	for _, path := range slices.Sorted(maps.Keys(t.Entries)) {
		e := t.Entries[path]
		ref := e.Release.Ref()
		key := fmt.Sprint(e.Release.Model, " ", e.Release.Counter)
		if other, ok := counters[key]; ok && other != ref {
			return nil, &trust.Violation{Rule: trust.RuleImmutable, Err: fmt.Errorf("%s and %s have the same counter", other, ref)}
		}
		counters[key] = ref
		sum := byRef[ref]
		if sum == nil {
			e.Release.Variants = slices.Clone(e.Release.Variants)
			byRef[ref] = &e
			continue
		}
		if !sameFacts(*sum, e) {
			return nil, &trust.Violation{Rule: trust.RuleFormat, Err: fmt.Errorf("the variants of %s disagree on its facts", ref)}
		}
		sum.Release.Variants = append(sum.Release.Variants, e.Release.Variants...)
	}
	var out []trust.Entry
	for _, e := range byRef {
		out = append(out, *e)
	}
	sortEntries(out)
	return out, nil
}

func sameFacts(a, b trust.Entry) bool {
	a.Release.Variants, b.Release.Variants = nil, nil
	return reflect.DeepEqual(a, b)
}

func sortEntries(es []trust.Entry) {
	slices.SortFunc(es, func(a, b trust.Entry) int {
		if c := strings.Compare(string(a.Release.Model), string(b.Release.Model)); c != 0 {
			return c
		}
		if a.Release.Counter != b.Release.Counter {
			if a.Release.Counter < b.Release.Counter {
				return -1
			}
			return 1
		}
		return strings.Compare(string(a.Release.Version), string(b.Release.Version))
	})
}

var errReadOnly = errors.New("the repository was opened without the coordinator's key")
