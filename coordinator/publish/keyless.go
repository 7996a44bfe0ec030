package publish

import (
	"context"

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
	key := keyless.BundleKey(r.BundlePath(v.Name))
	raw, err := p.get(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return who, trust.Violated(trust.RuleKeyless, op, r.Ref(), err).
			WithHint("the policy asks team %s for a keyless signature: delist this version, and publish a new one with --identity-token-file", r.Team)
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
		return who, trust.Violated(trust.RuleKeyless, op, r.Ref(), err).WithHint("%s", fault.Hint(err))
	}
	return who, err
}
