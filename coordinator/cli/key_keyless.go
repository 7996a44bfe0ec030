package cli

import (
	"context"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// keyKeyless is `key keyless`.
type keyKeyless struct {
	keyChange
	team        string
	identity    keyless.Identity
	trustedRoot string
	remove      bool
}

func (d *desk) keyKeyless() *cobra.Command {
	o := &keyKeyless{keyChange: keyChange{desk: d}}
	cmd := &cobra.Command{
		Use: "keyless", Short: "Require or drop keyless signatures for a team", Args: cobra.NoArgs,
		Long: `Require that a team's releases also carry a keyless (Sigstore) signature by one of the
identities listed in the policy; the coordinator admits no others. Each call adds an
identity; --remove removes all of the team's identities. --trusted-root is the
Sigstore trusted root that signatures are verified with; give it the first time, and
again when Sigstore's keys change.

This changes the policy, so its custodians must sign it.`,
		Example: `  modelfleet key keyless --team vision --issuer https://token.actions.githubusercontent.com \
    --subject https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main --trusted-root trusted_root.json
  modelfleet key keyless --team vision --remove`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.team, "team", "", "the `team` whose releases this applies to")
	f.StringVar(&o.identity.Issuer, "issuer", "", "`URL` of the OpenID provider")
	f.StringVar(&o.identity.Subject, "subject", "", "the signer's exact `name` in its certificate")
	f.StringVar(&o.identity.Pattern, "pattern", "", "regular `expression` (RE2) that must match the whole name, instead of --subject")
	f.StringVar(&o.trustedRoot, "trusted-root", "", "Sigstore's trusted_root.json `file`")
	f.BoolVar(&o.remove, "remove", false, "no longer require keyless signatures")
	return cmd
}

func (o *keyKeyless) run(ctx context.Context) error {
	home, err := folder.Open(o.dir)
	if err != nil {
		return err
	}
	before, targets, err := home.Now(ctx)
	if err != nil {
		return err
	}
	change, err := o.change(targets)
	if err != nil {
		return err
	}
	return o.propose(ctx, home, before, targets, ceremony.Plan{Policy: &change})
}

// change is what the policy lists next.
func (o *keyKeyless) change(targets map[string][]byte) (c repository.PolicyChange, err error) {
	const op = "change keyless signers"
	team, err := fleet.ParseTeam(o.team)
	if err != nil {
		return c, err
	}
	policy, err := keyless.ParsePolicy(targets[trust.PathKeyless])
	if err != nil {
		return c, err
	}
	if policy.Teams == nil {
		policy.Teams = map[fleet.Team][]keyless.Identity{}
	}
	switch {
	case o.remove && len(policy.Teams[team]) == 0:
		return c, fault.Newf(fault.NotFound, op, o.team, "the policy asks for no keyless signature of it")
	case o.remove:
		delete(policy.Teams, team)
	default:
		if err := o.identity.Check(); err != nil {
			return c, err
		}
		if slices.Contains(policy.Teams[team], o.identity) {
			return c, fault.Newf(fault.Conflict, op, o.team, "%s is listed already", o.identity)
		}
		policy.Teams[team] = append(policy.Teams[team], o.identity)
	}
	if o.trustedRoot != "" {
		if c.SigstoreRoot, err = os.ReadFile(o.trustedRoot); err != nil {
			return c, fault.New(fault.NotFound, op, o.trustedRoot, err)
		}
	}
	if len(policy.Teams) == 0 {
		c.Keyless, c.SigstoreRoot = []byte{}, []byte{}
		return c, nil
	}
	if c.SigstoreRoot == nil && targets[trust.PathSigstoreRoot] == nil {
		return c, fault.Newf(fault.Invalid, op, o.team, "the policy holds no trusted root of Sigstore yet").
			WithHint("give its trusted_root.json with --trusted-root (cosign trusted-root create, or gh attestation trusted-root)")
	}
	c.Keyless, err = policy.Encode()
	return c, err
}
