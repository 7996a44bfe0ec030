package publish

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// vouch checks that each release which an admission adds carries the keyless
// signature that the policy asks of its team, over the very content that the
// team's key signed, and notes in the admission whose it is. A stolen team key
// alone brings nothing in then: the thief has to be the team's pipeline too.
func (p *Publisher) vouch(ctx context.Context, a *repository.Admission) error {
	_, targets := p.repo.Policy()
	policy, err := keyless.ParsePolicy(targets[trust.PathKeyless])
	if err != nil {
		return err
	}
	allowed, asked := policy.Teams[a.Team]
	if !asked {
		return nil
	}
	a.Vouched = map[string]string{}
	for _, e := range a.Added {
		for _, v := range e.Release.Variants {
			who, err := p.vouched(ctx, e.Release, v, targets[trust.PathSigstoreRoot], allowed)
			if err != nil {
				return err
			}
			a.Vouched[e.Release.Ref()] = who.String()
		}
	}
	return nil
}

// vouched is who signed a variant without a key.
func (p *Publisher) vouched(ctx context.Context, r fleet.Release, v fleet.Variant, root []byte, allowed []keyless.Identity) (who keyless.Identity, err error) {
	const op = "admit release"
	if !keyless.Available {
		return who, fault.Newf(fault.Invalid, op, r.Ref(), "the policy asks team %s for a keyless signature, and this coordinator was built without the means to check one", r.Team).
			WithHint("%s", rebuild)
	}
	key := keyless.BundleKey(r.BundlePath(v.Name))
	raw, err := p.get(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return who, trust.Violated(trust.RuleKeyless, op, r.Ref(), err).
			WithHint("the policy asks team %s for a keyless signature: publish this version once more, with --identity-token-file", r.Team)
	} else if err != nil {
		return who, err
	}
	// The library reads what anybody may have put there.
	err = guard.Do(p.o.Logger, op, key, func() error {
		m, by, err := keyless.Verify(raw, root, allowed...)
		if who = by; err == nil && fleet.Digest(m.Root) != v.Root {
			err = fault.Newf(fault.Untrusted, op, key, "it is for content %s, the team's key signed %s", fleet.Digest(m.Root).Short(), v.Root.Short())
		}
		return err
	})
	if fault.Is(err, fault.Untrusted) {
		return who, trust.Violated(trust.RuleKeyless, op, r.Ref(), err).
			WithHint("take it back with `modelfleet releases delist %s`, as nothing else of the team is admitted before, and publish a new version as %s", r.Ref(), whom(allowed))
	}
	return who, err
}

// rebuild is the remedy where a policy asks for what this program cannot check.
const rebuild = "run the coordinator that `make keyless` builds (-tags keyless) in its place: it takes up what waits"

// whom names those who may sign.
func whom(allowed []keyless.Identity) string {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = a.String()
	}
	return strings.Join(names, ", or as ")
}

// blind says aloud that the policy in force asks for what this program cannot
// check, before a publisher finds out.
func (p *Publisher) blind() {
	if keyless.Available {
		return
	}
	_, targets := p.repo.Policy()
	policy, err := keyless.ParsePolicy(targets[trust.PathKeyless])
	if err == nil && len(policy.Teams) == 0 {
		return
	}
	p.o.Logger.Error("the policy asks for keyless signatures, which this build cannot check: such releases are not admitted",
		"teams", slices.Sorted(maps.Keys(policy.Teams)), "err", err, "hint", rebuild)
}
