package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// folder follows trust from the pinned root to each group's pack, as members do.
func (x *examination) folder(ctx context.Context) {
	store, err := folder.OpenBucket(ctx, x.Home.FleetFile)
	if err != nil {
		x.failed("bucket", err)
		return
	}
	x.store = store
	x.ok("bucket", "%s can be read with these credentials", x.Home.Bucket)
	root, err := x.Home.ReadRoot(ctx, store)
	if err != nil {
		x.failed("root", err)
		return
	}
	x.ok("root", "the bucket's first root is the pinned one, %s", x.Home.Root.Short())
	repo, err := repository.Open(ctx, folder.Get(store), repository.Options{Root: root})
	if err != nil {
		x.failed("chain", err)
		return
	}
	x.repo = repo
	var versions []string
	for _, s := range repo.Standings() {
		if s.Version > 0 {
			versions = append(versions, fmt.Sprintf("%s %d", health.Subject(s.Role), s.Version))
		}
	}
	x.ok("chain", "verifies: %s", strings.Join(versions, ", "))
	for _, s := range repo.Standings() {
		if team, ok := strings.CutPrefix(s.Role, "pub-"); ok {
			x.team(ctx, fleet.Team(team), s)
		}
	}
	x.packs(ctx)
}

// team compares what a team put into the bucket with what was admitted.
func (x *examination) team(ctx context.Context, name fleet.Team, s repository.Standing) {
	role := "publisher " + string(name)
	d, err := x.repo.Draft(ctx, name)
	if err != nil {
		x.failed(role, err)
		return
	}
	opts := publisher.Options{Store: x.store, Repository: x.repo, Now: x.Now()}
	waiting, err := publisher.Proposals(ctx, opts, name)
	if err != nil {
		x.failed(role, err)
		return
	}
	for _, p := range waiting {
		switch {
		case p.Err == nil:
			x.warn(role, fmt.Sprintf("`modelfleet releases approve %s %s --key KEY`", name, p.ID()), "proposal %s waits for %d more of its %d signatures", p.ID(), p.Missing, s.Threshold)
		case fault.Is(p.Err, fault.Untrusted):
			x.failed(role, p.Err)
		}
	}
	switch next := d.Version - 1; {
	case d.Role.Version > s.Version:
		x.warn(role, fmt.Sprintf("`modelfleet releases admit %s`", name), "version %d is signed and not admitted; members are shown version %d", d.Role.Version, s.Version)
	case next > s.Version:
		x.warn(role, "publishing again goes on after it; look into who may write to the bucket", "version %d in the bucket is not signed by the team's keys, and refused", next)
	case s.Version == 0:
		x.ok(role, "it has not published yet")
	default:
		x.ok(role, "version %d, %s, valid until %s", s.Version, console.Count(releases(d.Role), "release"), s.Expires.Format(time.DateOnly))
	}
}

// releases counts releases, not their variants.
func releases(r trust.TeamRole) int {
	refs := map[string]bool{}
	for _, e := range r.Entries {
		refs[e.Release.Ref()] = true
	}
	return len(refs)
}

// packs verifies each group's pack as a new member of the group would.
func (x *examination) packs(ctx context.Context) {
	groups := x.repo.Groups()
	if len(groups) == 0 {
		x.warn("pack", "start the coordinator: modelfleet-coordinator -fleet FOLDER -data DATA", "the coordinator has not signed anything yet: no member can join")
	}
	for _, g := range groups {
		name := "pack " + string(g)
		body, _, err := x.store.Get(ctx, g.PackKey(), "")
		if err != nil {
			x.failed(name, err)
			continue
		}
		t, err := publisher.Pack(body, x.Home.Root, fleet.Facts{ID: "doctor", Kind: fleet.Device, Group: g}, x.Now())
		if err != nil {
			x.report.Add(WithRemedy(Failed(name, err), "members refuse it too, and keep what they have: restart the coordinator, which writes it anew, and look into who may write to the bucket"))
			continue
		}
		if t.Freshness != trust.Fresh {
			x.bad(name, fault.Untrusted, "is the coordinator running? see the findings below", "%s expired on %s: members hold what they have", health.Subject(t.Expired), t.Expires.Format(time.RFC3339))
			continue
		}
		for _, r := range t.Refused {
			why := r.Err.Error()
			if v, ok := errors.AsType[*trust.Violation](r.Err); ok {
				why = v.Error()
			}
			// Bad, though members serve what they had: whoever joins, or lost that, gets nothing.
			x.bad(name, fault.Conflict, "start a rollout of a release that may run, or abort the one under way", "members refuse %s, which the directive names: %s", r.Release, why)
		}
		if len(t.Refused) == 0 {
			x.ok(name, "a new member believes it: directive #%d, %s, fresh until %s", t.Directive.Sequence, count(len(t.Directive.Models), "model"), t.Expires.UTC().Format(time.RFC3339))
		}
	}
}

// WithRemedy is a check with a next move, where it had none.
func WithRemedy(c Check, remedy string) Check {
	if c.Remedy == "" {
		c.Remedy = remedy
	}
	return c
}
