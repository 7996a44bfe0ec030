package desk

import (
	"context"
	"errors"
	"slices"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// content is what a row says of a release: a model, and the root of its files. Two
// versions of a model with the same files are one content.
type content struct{ model, root telemetry.Prefix }

// known is a release that a row may speak of.
type known struct {
	ref     string
	root    fleet.Digest
	release fleet.Release
	gone    bool // its publisher took it back
}

// reload reads the catalog of releases.
func (d *Desk) reload(ctx context.Context) error {
	rs, err := d.o.Store.Releases(ctx) // newest first
	if err != nil {
		return err
	}
	catalog, teams := map[content][]known{}, map[string]fleet.Team{}
	for _, r := range rs {
		teams[r.Ref()] = r.Team
		for _, v := range r.Variants {
			c := content{telemetry.ModelPrefix(r.Model), telemetry.ReleasePrefix(v.Root)}
			catalog[c] = append(catalog[c], known{r.Ref(), v.Root, r.Release, r.Revoked})
		}
	}
	d.mu.Lock()
	d.catalog, d.teams = catalog, teams
	d.mu.Unlock()
	return nil
}

// lookup is the release that a content stands for on a member that should run the
// release of this name: that one if it has the content, else the one of those with it
// that was rolled out last, else the newest that was not taken back, else the newest.
func (d *Desk) lookup(c content, target string) (known, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := d.catalog[c]
	if len(all) == 0 {
		return known{}, false
	}
	best := all[0]
	for _, k := range all {
		if k.ref == target {
			return k, true
		}
		mine, others := d.rolled[k.ref], d.rolled[best.ref]
		if mine.After(others) || others.IsZero() && best.gone && !k.gone {
			best = k
		}
	}
	return best, true
}

// known are the refs of a team's releases that were ever admitted.
func (d *Desk) known(team fleet.Team) map[string]bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	refs := map[string]bool{}
	for ref, of := range d.teams {
		if of == team {
			refs[ref] = true
		}
	}
	return refs
}

// sameFiles refuses a release whose version was admitted before with other files:
// members that are told to run it would get them without a rollout.
func (d *Desk) sameFiles(rel fleet.Release) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, all := range d.catalog {
		for _, k := range all {
			if k.release.Ref() != rel.Ref() || sameRoots(k.release, rel) {
				continue
			}
			return trust.Violated(trust.RuleImmutable, "admit releases", rel.Ref(), errors.New("it was admitted before with other files or variants, and delisted")).
				WithHint("a version never changes: delist it again, and publish these files as a new version")
		}
	}
	return nil
}

// sameRoots reports whether two releases have the same variants with the same files.
func sameRoots(a, b fleet.Release) bool {
	return slices.EqualFunc(a.Variants, b.Variants, func(v, w fleet.Variant) bool {
		return v.Name == w.Name && v.Root == w.Root && slices.Equal(v.Classes, w.Classes)
	})
}

// Relisted is a release with the facts it was admitted with last: one that was
// delisted and is listed again has another counter, and the same files.
func (d *Desk) Relisted(rel fleet.Release) fleet.Release {
	if len(rel.Variants) == 0 {
		return rel
	}
	c := content{telemetry.ModelPrefix(rel.Model), telemetry.ReleasePrefix(rel.Variants[0].Root)}
	k, ok := d.lookup(c, rel.Ref())
	if !ok || k.gone || k.ref != rel.Ref() || k.release.Counter <= rel.Counter || !sameRoots(k.release, rel) {
		return rel
	}
	return k.release
}

// nameOf is lookup's release by name, the content in hex when nobody knows it, or
// "" for nothing.
func (d *Desk) nameOf(c content, target string) string {
	if c.root.IsZero() {
		return ""
	}
	if k, ok := d.lookup(c, target); ok {
		return k.ref
	}
	return c.root.String()
}

// targets are what a directive has a member run, by model.
func targets(dir fleet.Directive, f fleet.Facts) map[telemetry.Prefix]string {
	out := map[telemetry.Prefix]string{}
	for _, p := range dir.Models {
		if a := p.Assign(f); a.Release != nil {
			out[telemetry.ModelPrefix(p.Model)] = a.Release.Ref()
		}
	}
	return out
}

// RefOf is the release that a row says runs: the one of the row's rollout, where
// several have the same files.
func (d *Desk) RefOf(s telemetry.Model) string {
	d.mu.RLock()
	target := d.refs[d.rolls[s.Rollout]]
	d.mu.RUnlock()
	return d.nameOf(content{s.Model, s.Running}, target)
}

// Revoked says why no member may run a release any more; "" when they may.
func (d *Desk) Revoked(rel fleet.Release) string {
	gone := false
	for _, v := range rel.Variants {
		k, _ := d.lookup(content{telemetry.ModelPrefix(rel.Model), telemetry.ReleasePrefix(v.Root)}, rel.Ref())
		gone = gone || k.gone && k.ref == rel.Ref()
	}
	return d.revokedFor(rel, gone)
}

// runningIn is running of a scope's members.
func (d *Desk) runningIn(ctx context.Context, scope api.Scope) (map[string]int, error) {
	dir, err := d.directive(ctx, fleet.DefaultGroup)
	if err != nil {
		return nil, err
	}
	members := slices.DeleteFunc(d.o.Inventory.Members(), func(m store.Member) bool { return m.Revoked || !scope.HasMember(m.Facts) })
	return d.running(dir, members), nil
}

// running counts members by the release that they observed themselves running.
func (d *Desk) running(dir fleet.Directive, members []store.Member) map[string]int {
	out := map[string]int{}
	for _, m := range members {
		rep, ok := d.o.Intake.Newest(m.KeyID)
		if !ok {
			continue
		}
		named := targets(dir, m.Facts)
		for _, s := range rep.Row.Models {
			if ref := d.nameOf(content{s.Model, s.Running}, named[s.Model]); ref != "" {
				out[ref]++
			}
		}
	}
	return out
}
