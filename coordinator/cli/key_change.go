package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// keyChange is `key rotate`, `add`, `remove` and `renew`: each proposes a change of
// root or policy, has it signed by the keys that are here, and publishes it when
// those are enough.
type keyChange struct {
	*desk
	verb      ceremony.Verb
	role, old string
	come      []string // keys
	dir, out  string
	keys      []string // to sign with
	threshold int
	rehearse  bool
	yes       bool
	now, ends bool // of the device CA
}

func (o *keyChange) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.folderFlag(cmd, &o.dir)
	f.StringArrayVar(&o.keys, "key", nil, "sign with this `KEY` right away; repeatable; default: DIR/keys/root.pem if it exists")
	f.StringVar(&o.out, "out", "", "ceremony `file` to write; default: named after the change")
	f.BoolVar(&o.rehearse, "rehearse", false, "rehearse the change on a copy with throwaway keys; change nothing")
	f.BoolVarP(&o.yes, "yes", "y", false, "sign and publish without confirmation")
}

const roles = `Roles are root, policy, coordinator, timestamp, device-ca, audit and pub-TEAM. "key
status" lists them with their keys and holders.`

func (d *desk) keyRotate() *cobra.Command {
	o := &keyChange{desk: d, verb: ceremony.Rotate}
	var to string
	cmd := &cobra.Command{
		Use: "rotate ROLE [HOLDER|KEY-ID]", Short: "Replace a key or change a threshold", Args: cobra.RangeArgs(1, 2),
		Long: `Replace a key of a role. If the role has several, name the holder or a prefix of the
key id. A custodian of both root and policy is replaced in both. New coordinator,
timestamp, device CA and audit keys are created here unless --to names one. Without a
key, --threshold changes how many signatures the role needs.

Copy a new coordinator, timestamp or audit key to the keys folder of the coordinator's
fleet folder first (unless its fleet.json names it): a running coordinator starts
using it as soon as root or policy lists it.

` + roles,
		Example: `  modelfleet key rotate coordinator --rehearse
  modelfleet key rotate coordinator --to awskms:///alias/modelfleet/orchard/coordinator-2
  modelfleet key rotate root cy --to root-dee.pub
  modelfleet key rotate pub-vision vic --to val.pub
  modelfleet key rotate device-ca            # the old CA stays trusted ...
  modelfleet key rotate device-ca --finish   # ... until every member has renewed`,
		RunE: run(func(ctx context.Context, args []string) error {
			if o.role = args[0]; len(args) > 1 {
				o.old = args[1]
			}
			o.come = some(to)
			return o.run(ctx)
		}),
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "the new `KEY`: a public key file, or awskms:///...; NAME=KEY names the holder")
	f.IntVar(&o.threshold, "threshold", 0, "the new signature threshold")
	f.BoolVar(&o.ends, "finish", false, "device-ca: trust only the newest CA from now on")
	f.BoolVar(&o.now, "now", false, "device-ca: distrust the old CA immediately, because it was stolen; members rejoin automatically")
	return cmd
}

func (d *desk) keyAdd() *cobra.Command {
	o := &keyChange{desk: d, verb: ceremony.Add}
	cmd := &cobra.Command{
		Use: "add ROLE KEY...", Short: "Add a custodian, a team, or a key of a team", Args: cobra.MinimumNArgs(2),
		Long: `Add a key to a role, or create a team: "pub-TEAM" and its public keys. With
--threshold 2 a team's releases need a second person's approval.

` + roles,
		Example: `  modelfleet key add root root-dee.pub --threshold 3
  modelfleet key add pub-audio al.pub
  modelfleet key add pub-vision val.pub --threshold 2
  modelfleet key add timestamp heartbeat.pub`,
		RunE: run(func(ctx context.Context, args []string) error {
			o.role, o.come = args[0], args[1:]
			return o.run(ctx)
		}),
	}
	o.flags(cmd)
	cmd.Flags().IntVar(&o.threshold, "threshold", 0, "the new signature threshold")
	return cmd
}

func (d *desk) keyRemove() *cobra.Command {
	o := &keyChange{desk: d, verb: ceremony.Remove}
	cmd := &cobra.Command{
		Use: "remove ROLE [HOLDER|KEY-ID]", Short: "Remove a custodian, a team, or a key of a team", Args: cobra.RangeArgs(1, 2),
		Long: `Remove a key from a role or, if no key is named, remove a team: once members learn of
it, they stop running everything the team published.

` + roles,
		Example: "  modelfleet key remove root cy\n  modelfleet key remove pub-audio",
		RunE: run(func(ctx context.Context, args []string) error {
			if o.role = args[0]; len(args) > 1 {
				o.old = args[1]
			}
			return o.run(ctx)
		}),
	}
	o.flags(cmd)
	cmd.Flags().IntVar(&o.threshold, "threshold", 0, "the new signature threshold")
	return cmd
}

func (d *desk) keyRenew() *cobra.Command {
	o := &keyChange{desk: d, verb: ceremony.Renew}
	cmd := &cobra.Command{
		Use: "renew [root|policy]", Short: "Renew root and policy for another year", Args: cobra.MaximumNArgs(1),
		Long:    "Renew root and policy, or one of them, for another year. Nothing else changes.",
		Example: "  modelfleet key renew",
		RunE: run(func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				o.role = args[0]
			}
			return o.run(ctx)
		}),
	}
	o.flags(cmd)
	return cmd
}

func (o *keyChange) run(ctx context.Context) error {
	home, err := folder.Open(o.dir)
	if err != nil {
		return err
	}
	before, targets, err := home.Now(ctx)
	if err != nil {
		return err
	}
	plan, prefer, err := o.plan(ctx, home, before, targets)
	if err != nil {
		return err
	}
	if prefer != "" && !o.rehearse {
		if err := home.Prefer(o.role, prefer); err != nil {
			return err
		}
	}
	return o.propose(ctx, home, before, targets, plan)
}

// propose makes the ceremony of a plan and goes as far with it as the keys here
// reach; or only rehearses it.
func (o *keyChange) propose(ctx context.Context, home folder.Folder, before ceremony.Metadata, targets map[string][]byte, plan ceremony.Plan) error {
	if o.rehearse {
		seen, err := ceremony.Rehearse(ctx, before, targets, plan, o.desk.now())
		for _, line := range seen {
			o.Say("rehearsed: %s", line)
		}
		if err == nil && o.json() {
			return o.JSON(map[string]any{"rehearsed": list(seen)})
		}
		return err
	}
	c, err := before.Make(plan, o.desk.now(), repository.Lifetimes{})
	if err != nil {
		if fault.Hint(err) == "" {
			err = fault.New(fault.KindOf(err), "propose change of keys", o.role, err).WithHint("set the new signature threshold with --threshold")
		}
		return err
	}
	return o.settle(ctx, home, c)
}

// settle signs with what is here and publishes; or writes the file to pass on.
func (o *keyChange) settle(ctx context.Context, home folder.Folder, c *ceremony.Ceremony) error {
	path := c.Name()
	if o.out != "" {
		path = o.out
	}
	c.Call(path)
	o.describe(c)
	keys := o.keys
	if len(keys) == 0 && rootHere(home) {
		keys = []string{home.KeyPath("root")}
	}
	for _, ref := range keys {
		if !o.yes {
			if !o.Person {
				return fault.Newf(fault.Invalid, "sign ceremony", path, "it is not confirmed, and there is no terminal to ask on").WithHint("run it on a terminal, or confirm with --yes")
			}
			if yes, err := o.Confirm("Sign this with " + ref + "?"); err != nil || !yes {
				return fault.New(fault.Canceled, "sign ceremony", path, err).WithHint("nothing was signed")
			}
		}
		key, err := o.signingKey(ctx, ref)
		if err != nil {
			return err
		}
		if _, err := c.Sign(key); err != nil {
			return err
		}
	}
	if c.Complete() == nil {
		return o.publishCeremony(ctx, home, c)
	}
	if err := folder.Save(path, c); err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"file": path, "words": c.Words(), "complete": false, "parties": c.Parties()})
	}
	o.passOn(c, path, home.Dir)
	return nil
}

// plan works out the change. prefer is a reference that the coordinator is to find
// in fleet.json.
func (o *keyChange) plan(ctx context.Context, home folder.Folder, before ceremony.Metadata, targets map[string][]byte) (plan ceremony.Plan, prefer string, err error) {
	switch o.role {
	case folder.RoleDeviceCA:
		return o.deviceCA(ctx, home, targets[trust.PathDeviceCA])
	case folder.RoleAudit:
		if o.verb != ceremony.Rotate {
			return plan, "", fault.Newf(fault.Invalid, "propose change of keys", o.role, "it has one key, which can only be replaced").WithHint("modelfleet key rotate audit")
		}
		return o.audit(home, string(targets[trust.PathAuditKey]))
	}
	change := ceremony.Change{Verb: o.verb, Role: o.role, Old: o.old, Threshold: o.threshold}
	if change.New, err = o.holdings(ctx, o.come); err != nil {
		return plan, "", err
	}
	online := o.role == ceremony.RoleCoordinator || o.role == ceremony.RoleTimestamp
	if online && o.verb == ceremony.Rotate {
		if len(o.come) == 0 {
			h, path, err := o.next(ctx, home, before)
			if err != nil {
				return plan, "", err
			}
			change.New = []ceremony.Holding{h}
			if !o.rehearse {
				o.nextKey(path)
			}
		} else if _, ref, named := strings.Cut(o.come[0], "="); !strings.HasSuffix(o.come[0], ".pub") {
			if prefer = o.come[0]; named {
				prefer = ref
			}
			change.New[0].Holder = ""
		}
	}
	plan, err = before.Plan(change)
	return plan, prefer, err
}

// audit is the policy's next key of the audit log. listed is the one it lists now.
func (o *keyChange) audit(home folder.Folder, listed string) (plan ceremony.Plan, prefer string, err error) {
	var public, path string
	if o.rehearse {
		_, public, err = ledger.NewKey(home.Name)
	} else if public, path, err = home.NextAuditKey(listed); err == nil {
		o.nextKey(path)
	}
	return ceremony.Plan{Policy: &repository.PolicyChange{AuditKey: public}}, "", err
}

// nextKey says where the new key is and what has to be done with it.
func (o *keyChange) nextKey(path string) {
	o.Say("the new key is %s; the coordinator finds it if it uses this fleet folder. If it runs from another copy,\ncopy the file into that copy's keys folder before you confirm: once the change is published, it is needed there", path)
}

// next makes the key that follows, or finds the one that an unfinished ceremony
// left.
func (o *keyChange) next(ctx context.Context, home folder.Folder, before ceremony.Metadata) (ceremony.Holding, string, error) {
	if o.rehearse {
		key, err := signer.Ephemeral()
		if err != nil {
			return ceremony.Holding{}, "", err
		}
		return ceremony.Holding{Key: key.Public()}, "", nil
	}
	named, err := before.KeyIDs()
	if err != nil {
		return ceremony.Holding{}, "", err
	}
	path, key, _, err := home.NextKey(ctx, o.role, func(s *signer.Signer) bool {
		id, err := repository.KeyID(s.Public())
		return err != nil || slices.Contains(named, id)
	})
	if err != nil {
		return ceremony.Holding{}, "", err
	}
	return ceremony.Holding{Key: key.Public()}, path, nil
}

// deviceCA is the policy's next list of device CAs.
func (o *keyChange) deviceCA(ctx context.Context, home folder.Folder, listed []byte) (plan ceremony.Plan, prefer string, err error) {
	const op = "propose change of keys"
	switch {
	case o.verb != ceremony.Rotate || o.old != "" || o.threshold != 0 || o.now && o.ends:
		return plan, "", fault.Newf(fault.Invalid, op, o.role, "it is replaced as a whole").
			WithHint("modelfleet key rotate device-ca, and --finish once all members have renewed; --now if it was stolen")
	case o.ends:
		newest, others, err := folder.NewestCA(listed)
		if err != nil {
			return plan, "", err
		}
		if others == 0 {
			return plan, "", fault.Newf(fault.Conflict, op, o.role, "the policy lists one device CA: there is none to take out").WithHint("begin with: modelfleet key rotate device-ca")
		}
		if err := o.renewed(ctx, newest); err != nil {
			return plan, "", err
		}
		return ceremony.Plan{Policy: &repository.PolicyChange{DeviceCA: newest}}, "", nil
	}
	var key *signer.Signer
	switch {
	case len(o.come) > 0:
		if prefer = o.come[0]; o.rehearse {
			prefer = ""
		}
		key, err = keyref.Open(ctx, o.come[0], o.desk.keys())
	case o.rehearse:
		key, err = signer.Ephemeral()
	default:
		var path string
		path, key, _, err = home.NextKey(ctx, "device-ca", func(s *signer.Signer) bool { return folder.IsCA(listed, s.Public()) })
		o.nextKey(path)
	}
	if err != nil {
		return plan, "", err
	}
	made, err := folder.DeviceCA(home.Name, key, o.desk.now())
	if err != nil {
		return plan, "", err
	}
	if !o.now {
		made = append(slices.Clone(listed), made...)
	}
	return ceremony.Plan{Policy: &repository.PolicyChange{DeviceCA: made}}, prefer, nil
}

// renewed refuses to take out a device CA that members still depend on.
func (o *keyChange) renewed(ctx context.Context, newest []byte) error {
	client, err := o.client()
	if err != nil {
		o.Say("no coordinator is known here: it was not checked that all members have renewed")
		return nil
	}
	info, err := client.Fleet(ctx)
	if err != nil {
		return fault.New(fault.KindOf(err), "propose change of keys", o.role, err).WithHint("the coordinator knows whether all members have renewed")
	}
	return folder.MayFinish(newest, info.DeviceCAs)
}
