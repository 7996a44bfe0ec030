package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

func (d *desk) keyCommands() *cobra.Command {
	cmd := group("key", "Manage the fleet's keys",
		d.keyStatus(), d.keyCreate(), d.keyShow(), d.keySign(), d.keyPublish(),
		d.keyRotate(), d.keyAdd(), d.keyRemove(), d.keyRenew(), d.keyKeyless())
	cmd.Long = `Manage the fleet's keys: who holds them, when they expire, and how they change.

Root and policy are signed by custodians, each with their own key on their own
machine. Changing either takes a ceremony: rotate, add, remove and renew write a
ceremony file that describes the change; each custodian reviews it and signs it
with "key sign"; "key publish" uploads it once the threshold is reached. The file
holds no secrets and may be sent over any channel.`
	return cmd
}

// rootHere reports whether root's key lies in the fleet's folder.
func rootHere(f folder.Folder) bool {
	_, err := os.Stat(f.KeyPath("root"))
	return err == nil
}

// keyCreate is `key create`.
type keyCreate struct {
	*desk
	encrypt bool
}

func (d *desk) keyCreate() *cobra.Command {
	o := &keyCreate{desk: d}
	cmd := &cobra.Command{
		Use: "create FILE.pem", Short: "Create a key pair: FILE.pem (secret) and FILE.pub", Args: cobra.ExactArgs(1),
		Long: `Create an ECDSA P-256 key pair. FILE.pem is secret and stays on this machine; give
FILE.pub, the public key, to the person who creates the fleet or changes its keys.
The file name identifies the holder: root-ana.pem belongs to ana.

--encrypt protects the file with a passphrase (sigstore's format). Use it for keys
that people sign with; services cannot enter a passphrase.`,
		Example: "  modelfleet key create root-ana.pem --encrypt\n  modelfleet key create vic.pem",
		RunE:    run(func(_ context.Context, args []string) error { return o.run(args[0]) }),
	}
	cmd.Flags().BoolVar(&o.encrypt, "encrypt", false, "encrypt the key with a passphrase, prompted for or read from $"+passwordVariable)
	return cmd
}

func (o *keyCreate) run(path string) error {
	const op = "make key"
	base, ok := strings.CutSuffix(path, ".pem")
	if !ok {
		return fault.Newf(fault.Invalid, op, path, "the file's name does not end in .pem").WithHint("modelfleet key create %s.pem", path)
	}
	var pass []byte
	if o.encrypt {
		var err error
		if pass, err = o.newPassphrase(path); err != nil {
			return err
		}
	}
	key, err := signer.GenerateSealed(path, pass)
	if err != nil {
		return err
	}
	pub, err := signer.EncodePublic(key.ECDSA())
	if err != nil {
		return err
	}
	if err := cas.WriteFile(base+".pub", pub, 0o644); err != nil {
		return err
	}
	if err := o.printKey(base+".pub", key.ECDSA()); err != nil {
		return err
	}
	if !o.json() {
		o.Say("keep %s where it is, with a copy in another place; give away %s", path, base+".pub")
	}
	return nil
}

// newPassphrase asks twice.
func (o *keyCreate) newPassphrase(path string) ([]byte, error) {
	first, err := o.passphrase(path)
	if err != nil || o.env(passwordVariable) != "" {
		return first, err
	}
	second, err := o.Secret("Once more:")
	switch {
	case err != nil:
		return nil, err
	case len(first) == 0:
		return nil, fault.Newf(fault.Invalid, "make key", path, "the passphrase is empty").WithHint("leave out --encrypt for a key without one")
	case string(first) != string(second):
		return nil, fault.Newf(fault.Invalid, "make key", path, "the passphrases differ").WithHint("try again")
	}
	return first, nil
}

// printKey prints a public key's id.
func (d *desk) printKey(where string, pub any) error {
	id, err := repository.KeyID(pub)
	if err != nil {
		return fault.New(fault.Invalid, "name key", where, err)
	}
	if d.json() {
		return d.JSON(map[string]string{"id": id, "holder": keyref.Holder(where), "public": where})
	}
	d.Print("%s  %s  %s", ceremony.Short(id), keyref.Holder(where), where)
	return nil
}

func (d *desk) keyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show FILE|KEY", Short: "Describe a ceremony file or a key", Args: cobra.ExactArgs(1),
		Long: `Describe what a ceremony file would change, who has signed it and whose signatures are
missing; or print a key's id and, with -o json, its public key.`,
		Example: "  modelfleet key show orchard-root-2.ceremony.json\n  modelfleet key show root-ana.pub\n  modelfleet key show awskms:///alias/modelfleet/orchard/coordinator",
		RunE:    run(func(ctx context.Context, args []string) error { return d.show(ctx, args[0]) }),
	}
}

func (d *desk) show(ctx context.Context, name string) error {
	if !strings.HasSuffix(name, ".json") {
		pub, err := keyref.Public(ctx, name, d.keys())
		if err != nil {
			return err
		}
		return d.printKey(name, pub)
	}
	c, err := readCeremony(name)
	if err != nil {
		return err
	}
	if d.json() {
		err = d.JSON(map[string]any{"fleet": c.Fleet(), "words": c.Words(), "parts": c.Describe(), "parties": c.Parties(), "complete": c.Complete() == nil})
	} else {
		d.describe(c)
		d.signatures(c)
	}
	return errors.Join(c.Sound(), err)
}

func readCeremony(path string) (*ceremony.Ceremony, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > ceremony.MaxBytes {
		return ceremony.Parse(path, make([]byte, ceremony.MaxBytes+1)) // refused by its size
	}
	data, err := os.ReadFile(path)
	if err != nil {
		kind := fault.Invalid
		if os.IsNotExist(err) {
			kind = fault.NotFound
		}
		return nil, fault.New(kind, "read ceremony", path, err).WithHint("name the file that `modelfleet init` or `modelfleet key rotate` made")
	}
	return ceremony.Parse(path, data)
}

// describe says in words what a ceremony asks to sign.
func (d *desk) describe(c *ceremony.Ceremony) {
	what := "changes fleet " + c.Fleet()
	if c.Begins() {
		what = "begins fleet " + c.Fleet()
	}
	d.Say("")
	d.plain("This %s. Its words are %s: they are the same on every machine.", what, c.Words())
	for _, p := range c.Describe() {
		d.Say("")
		d.plain("%s %d, good until %s (%s)", p.File, p.Version, p.Expires.Format(time.DateOnly), days(p.Expires.Sub(d.now())))
		for _, s := range p.Says {
			mark := "   "
			if len(s.Change) > 0 {
				mark = " * "
			}
			d.plain("%s%s: %s", mark, s.What, s.Now)
			for _, ch := range s.Change {
				d.plain("       %s", ch)
			}
		}
	}
	d.Say("")
}

// plain says a line in which nothing that came from elsewhere moves the cursor,
// turns the direction of writing or is invisible: people sign by what they read.
func (d *desk) plain(format string, args ...any) {
	d.Say("%s", strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, fmt.Sprintf(format, args...)))
}

func days(left time.Duration) string {
	switch {
	case left <= 0:
		return "EXPIRED"
	case left < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(left.Hours()))
	}
	return fmt.Sprintf("%d days", int(left.Hours()/24))
}

// signatures says who has signed, and who is missing.
func (d *desk) signatures(c *ceremony.Ceremony) {
	for _, p := range c.Parties() {
		d.plain("%s needs %s, %s; it has %d%s", p.File, console.Count(p.Threshold, "signature"), p.Why, p.Have(), signedBy(p))
	}
}

func signedBy(p ceremony.Party) string {
	var out []string
	for _, k := range p.Keys {
		if k.Signed {
			out = append(out, k.String())
		}
	}
	if out == nil {
		return ""
	}
	return ": " + strings.Join(out, ", ")
}

// passOn says who must sign next, and how.
func (d *desk) passOn(c *ceremony.Ceremony, path, dir string) {
	d.signatures(c)
	d.Say("")
	if c.Complete() == nil {
		d.Say("enough have signed. Next:  modelfleet key publish %s --dir %s", path, dir)
		return
	}
	d.Say("Next: pass %s to each who must sign, and put it into the bucket when they have:", path)
	d.Say("  modelfleet key sign %s --key FILE.pem", filepath.Base(path))
	d.Say("  modelfleet key publish %s --dir %s", path, dir)
}
