package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
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
		Use: "sign FILE", Short: "Sign a ceremony's file as one of its custodians", Args: cobra.ExactArgs(1),
		Long: `Sign a ceremony's file with your key. It says first what you would sign: which keys
may do what from then on, and what is otherwise than before. The words it prints
are a name for exactly that: read them to the others over the telephone.

The file is replaced by the signed one, unless --out names another. It may be
signed by one after the other, or in copies that "key publish" puts together.`,
		Example: "  modelfleet key sign orchard-root-2.ceremony.json --key root-ana.pem",
		RunE:    run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.key, "key", "", "your `KEY`: a file, or awskms:///...")
	f.StringVar(&o.out, "out", "", "write the signed `file` here, and leave the other as it is")
	f.BoolVarP(&o.yes, "yes", "y", false, "sign without being asked")
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
		Use: "publish FILE...", Short: "Put a ceremony that enough have signed into the bucket", Args: cobra.MinimumNArgs(1),
		Long: `Put a ceremony that enough have signed into the bucket. Copies that were signed apart
are put together. It is checked as the fleet will check it; one that is not whole is
refused with who is missing, and one that somebody else's change has overtaken is
refused too. Junk that lies in its place, which its keepers did not sign, is written
over. Doing it again is harmless. A running coordinator takes it up within a minute,
and members with its next directive.`,
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
	d.Say("published %s: %d objects put into %s", strings.TrimSuffix(c.Name(), ".ceremony.json"), p.Created, home.Bucket)
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
