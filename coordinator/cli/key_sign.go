package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
)

// keySign is `key sign`.
type keySign struct {
	*desk
	key, out string
	yes      bool
}

func (d *desk) keySign() *cobra.Command {
	o := &keySign{desk: d}
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Sign a ceremony file as a custodian", Args: cobra.ExactArgs(1),
		Long: `Sign a ceremony file with your key. It first shows what you would sign: which keys may
do what from then on, and what changes. The words it prints are a fingerprint of that
content: compare them with the other custodians by phone.

The signed file replaces the original unless --out is given. Custodians may sign one
after another, or sign separate copies that "key publish" merges.`,
		Example: "  modelfleet key sign orchard-root-2.ceremony.json --key root-ana.pem",
		RunE:    run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.key, "key", "", "your `KEY`: a file, or awskms:///...")
	f.StringVar(&o.out, "out", "", "write the signed `file` here and keep the original")
	f.BoolVarP(&o.yes, "yes", "y", false, "sign without confirmation")
	return cmd
}

func (o *keySign) run(ctx context.Context, path string) error {
	c, err := readCeremony(path)
	if err != nil {
		return err
	}
	if o.key == "" {
		return fault.Newf(fault.Invalid, "sign ceremony", path, "--key is not given").WithHint("modelfleet key sign %s --key FILE.pem", path)
	}
	if err := c.Sound(); err != nil {
		return err
	}
	o.describe(c)
	if !o.yes {
		if !o.Person {
			return fault.Newf(fault.Invalid, "sign ceremony", path, "it is not confirmed, and there is no terminal to ask on").WithHint("run it on a terminal, or confirm with --yes")
		}
		if yes, err := o.Confirm("Sign this?"); err != nil || !yes {
			return fault.New(fault.Canceled, "sign ceremony", path, err).WithHint("nothing was signed")
		}
	}
	key, err := o.signingKey(ctx, o.key)
	if err != nil {
		return err
	}
	files, err := c.Sign(key)
	if err != nil {
		return err
	}
	to := path
	if o.out != "" {
		to = o.out
	}
	if err := folder.Save(to, c); err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"file": to, "signed": list(files), "words": c.Words(), "complete": c.Complete() == nil, "parties": c.Parties()})
	}
	if len(files) == 0 {
		o.Say("this key had signed it before")
	} else {
		o.Say("signed %s with %s", strings.Join(files, " and "), o.key)
	}
	o.passOn(c, to, "DIR")
	return nil
}

// signingKey opens a custodian's key; the public half of one is told apart.
func (d *desk) signingKey(ctx context.Context, ref string) (*signer.Signer, error) {
	if data, err := os.ReadFile(ref); err == nil {
		if _, err := signer.ParsePublic(data); err == nil {
			return nil, fault.Newf(fault.Invalid, "load key", ref, "this is a public key, which signs nothing").
				WithHint("name its secret half, which `modelfleet key create` made beside it: %s.pem", strings.TrimSuffix(ref, ".pub"))
		}
	}
	return keyref.Open(ctx, ref, d.keys())
}

// keyPublish is `key publish`.
type keyPublish struct {
	*desk
	dir string
}

func (d *desk) keyPublish() *cobra.Command {
	o := &keyPublish{desk: d}
	cmd := &cobra.Command{
		Use: "publish FILE...", Short: "Publish a signed ceremony to the bucket", Args: cobra.MinimumNArgs(1),
		Long: `Publish a ceremony to the bucket once its threshold is reached. Copies that were signed
separately are merged. The result is verified as the fleet will verify it. An
incomplete ceremony is refused with the missing signers, and so is one that another
change has superseded. Unsigned junk at its object key is overwritten. The command is
idempotent. A running coordinator picks the change up within a minute, and members
with its next directive.`,
		Example: "  modelfleet key publish orchard-root-2.ceremony.json --dir orchard\n  modelfleet key publish from-ana.json from-ben.json --dir orchard",
		RunE:    run(func(ctx context.Context, args []string) error { return o.run(ctx, args) }),
	}
	o.folderFlag(cmd, &o.dir)
	return cmd
}

// folderFlag declares --dir.
func (d *desk) folderFlag(cmd *cobra.Command, dir *string) {
	usual := d.env("MODELFLEET_DIR")
	if usual == "" {
		usual = "."
	}
	cmd.Flags().StringVar(dir, "dir", usual, "the fleet's `folder`; $MODELFLEET_DIR")
}

func (o *keyPublish) run(ctx context.Context, paths []string) error {
	var whole *ceremony.Ceremony
	for _, path := range paths {
		c, err := readCeremony(path)
		if err != nil {
			return err
		}
		if err := c.Sound(); err != nil {
			return err
		}
		if whole == nil {
			whole = c
		} else if err := whole.Merge(path, c); err != nil {
			return err
		}
	}
	if whole.Begins() {
		made, err := folder.Finish(ctx, o.dir, whole)
		if err != nil {
			return err
		}
		return o.made(made)
	}
	home, err := folder.Open(o.dir)
	if err != nil {
		return err
	}
	return o.publishCeremony(ctx, home, whole)
}

// publishCeremony puts a ceremony into the fleet's bucket and says what follows.
func (d *desk) publishCeremony(ctx context.Context, home folder.Folder, c *ceremony.Ceremony) error {
	p, err := home.Publish(ctx, c)
	if err != nil {
		return err
	}
	for _, line := range p.Replaced {
		d.Say("%s; find who put it there", line)
	}
	if d.json() {
		return d.JSON(map[string]any{"fleet": c.Fleet(), "words": c.Words(), "objectsMade": p.Created, "replaced": list(p.Replaced)})
	}
	if p.Created == 0 {
		d.Say("%s is published already, just so", c.File())
		return nil
	}
	d.Say("published %s: %s uploaded to %s", strings.TrimSuffix(c.Name(), ".ceremony.json"), console.Count(p.Created, "object"), home.Bucket)
	if key := home.AuditKeyFile(c); key != "" {
		d.Say("the audit log has another key now: %s must be in the keys folder of the coordinator's", key)
		d.Say("fleet folder; until it is there, members hold what they have, for no proof is by that key")
	}
	d.Say("a running coordinator takes it up within a minute, and members with its next directive")
	for _, team := range c.Renewals() {
		d.Say("%s", ceremony.Renewal(team))
	}
	return nil
}
