package publisher

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// vouching is how the policy has the team's releases signed without a key.
type vouching struct {
	asked bool
	root  []byte // trusted root of the Sigstore
}

func (o Options) vouching(team fleet.Team) (vouching, error) {
	_, targets := o.Repository.Policy()
	policy, err := keyless.ParsePolicy(targets[trust.PathKeyless])
	return vouching{asked: len(policy.Teams[team]) > 0, root: targets[trust.PathSigstoreRoot]}, err
}

// vouchable refuses at once, before anything is sent, what admission would.
func (o Options) vouchable(team fleet.Team) error {
	v, err := o.vouching(team)
	switch {
	case err != nil:
		return err
	case v.asked && !keyless.Available && !o.DryRun:
		return fault.Newf(fault.Invalid, "publish", string(team), "the fleet's policy asks for a keyless signature of the team's releases, and this program was built without it").
			WithHint("publish with the modelfleet that `make keyless` builds (-tags keyless)")
	case v.asked && o.Keyless.Token == "" && !o.DryRun:
		return fault.Newf(fault.Invalid, "publish", string(team), "the fleet's policy asks for a keyless signature of the team's releases").
			WithHint("give the identity token of your pipeline with --identity-token-file; see `modelfleet publish --help`")
	case !v.asked && o.Keyless.Token != "":
		return fault.Newf(fault.Invalid, "publish", string(team), "the fleet's policy asks for no keyless signature of the team's releases").
			WithHint("leave the identity token out, or have the policy's keeper name the team's signers with `modelfleet key keyless`")
	}
	return nil
}

// vouch puts the keyless bundle of each variant beside the one by the team's key.
// One that is there already stays: admission judges it.
func (o Options) vouch(ctx context.Context, team fleet.Team, signed []prepared) error {
	v, err := o.vouching(team)
	if err != nil || !v.asked {
		return err
	}
	for _, p := range signed {
		key := keyless.BundleKey(p.path)
		_, _, err := o.Store.Get(ctx, key, "")
		if err == nil {
			continue
		}
		if !fault.Is(err, fault.NotFound) {
			return err
		}
		how := o.Keyless
		how.TrustedRoot = v.root
		raw, err := keyless.Sign(ctx, p.manifest, how)
		if err != nil {
			return err
		}
		if _, err := o.Store.Create(ctx, key, registry.BodyOf(raw)); err != nil && !fault.Is(err, fault.Conflict) {
			return fault.New(fault.KindOf(err), "write keyless bundle", key, err)
		}
	}
	return nil
}
