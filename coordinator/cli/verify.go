package cli

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

func parseNumber(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return v, nil
}

// verify is `verify`.
type verify struct {
	*desk
	dir, team, bundle, key, pack, member string
	root                                 string
}

func (d *desk) verifyCommand() *cobra.Command {
	o := &verify{desk: d}
	cmd := &cobra.Command{
		Use: "verify (MODEL@VERSION | FOLDER --bundle FILE | --pack FILE)", Short: "Verify a release, a model folder or a trust pack", Args: cobra.MaximumNArgs(1),
		Long: `Verify, as a member would:

  MODEL@VERSION          a release in the bucket, from the pinned root to the last byte
  FOLDER --bundle FILE   a model folder against its signed bundle
  --pack FILE            a trust pack: its signers, its directive, its expiry

Exit code 6 means that something is not trusted; the message names it.`,
		Example: `  modelfleet verify detector@1.5.0 --dir orchard
  modelfleet verify ./detector-1.5 --bundle detector.oms --key orchard/keys/publisher-vision.pem
  modelfleet verify --pack default.pack.zst --dir orchard`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", cmp.Or(d.env("MODELFLEET_DIR"), "."), "the fleet's `folder`; $MODELFLEET_DIR")
	f.StringVar(&o.team, "team", "", "publishing `team`; default: the team whose key is in the folder")
	f.StringVar(&o.bundle, "bundle", "", "OMS bundle `file` to check a folder against")
	f.StringVar(&o.key, "key", "", "publisher's key `file` in PEM, public or private; default: the key in the fleet's folder")
	f.StringVar(&o.pack, "pack", "", "trust pack `file`")
	f.StringVar(&o.root, "root", "", "`digest` of the root to pin; default: from fleet.json")
	f.StringVar(&o.member, "member", "", "show what a pack means for this `member`, using its facts from the coordinator")
	return cmd
}

func (o *verify) run(ctx context.Context, args []string) error {
	switch {
	case o.key != "" && o.bundle == "":
		return fault.Newf(fault.Invalid, "verify", "--key", "a key is for a folder with its --bundle; the keys of releases and packs follow from the root")
	case o.pack != "" && len(args) == 0:
		return o.runPack(ctx)
	case o.bundle != "" && len(args) == 1:
		return o.runFolder(ctx, args[0])
	case len(args) == 1 && o.pack == "" && strings.Contains(args[0], "@"):
		return o.runRelease(ctx, args[0])
	}
	return fault.Newf(fault.Invalid, "verify", strings.Join(args, " "), "it is neither a release, nor a folder with --bundle, nor a --pack").WithHint("see `modelfleet verify --help`")
}

// publisherKey is the key that --key names, or the folder's.
func (o *verify) publisherKey(ctx context.Context) (*ecdsa.PublicKey, error) {
	if o.key == "" {
		home, err := folder.Open(o.dir)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "find publisher key", "", err).WithHint("name the key with --key, or the fleet's folder with --dir")
		}
		_, s, err := home.Publisher(ctx, fleet.Team(o.team))
		if err != nil {
			return nil, err
		}
		return s.ECDSA(), nil
	}
	return keyref.Public(ctx, o.key, o.keys())
}

func (o *verify) runFolder(ctx context.Context, dir string) error {
	key, err := o.publisherKey(ctx)
	if err != nil {
		return err
	}
	bundle, err := os.ReadFile(o.bundle)
	if err != nil {
		return fault.New(fault.NotFound, "read bundle", o.bundle, err)
	}
	m, err := publisher.Folder(ctx, dir, bundle, key)
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"ok": true, "folder": dir, "files": len(m.Files()), "identity": fleet.Digest(m.Root)})
	}
	id, err := oms.Fingerprint(key)
	if err != nil {
		return err
	}
	o.Print("%s matches its signature: %s, identity %s, key %s", dir, console.Count(len(m.Files()), "file"), fleet.Digest(m.Root).Short(), id[:12])
	return nil
}

func (o *verify) runRelease(ctx context.Context, ref string) error {
	model, version, err := fleet.ParseRef(ref)
	if err != nil {
		return err
	}
	home, err := folder.Open(o.dir)
	if err != nil {
		return err
	}
	if o.root != "" {
		if home.Root, err = fleet.ParseDigest(o.root); err != nil {
			return err
		}
	}
	store, err := folder.OpenBucket(ctx, home.FleetFile)
	if err != nil {
		return err
	}
	repo, err := home.Repository(ctx, store)
	if err != nil {
		return err
	}
	team, err := onlyTeam(repo.Teams(), o.team, "verify", ref)
	if err != nil {
		return err
	}
	bar := o.Progress("verify", 0)
	found, err := publisher.InBucket(ctx, store, repo, fleet.Release{Team: team, Model: model, Version: version}, bar.Set)
	bar.Stop()
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(found)
	}
	for _, c := range found {
		v := c.Release.Variants[0]
		o.Print("%s %s: %s, %s, identity %s, counter %d: every byte matches the signature of team %s", c.Release.Ref(), c.Variant, console.Count(c.Files, "file"), console.Bytes(c.Bytes), v.Root.Short(), c.Release.Counter, team)
	}
	return nil
}

func (o *verify) runPack(ctx context.Context) error {
	pin, err := o.pin()
	if err != nil {
		return err
	}
	pack, err := os.ReadFile(o.pack)
	if err != nil {
		return fault.New(fault.NotFound, "read pack", o.pack, err)
	}
	facts := fleet.Facts{ID: "verify", Kind: fleet.Device, Group: fleet.DefaultGroup}
	if o.member != "" {
		client, err := o.client()
		if err != nil {
			return err
		}
		m, err := client.Member(ctx, fleet.MemberID(o.member))
		if err != nil {
			return err
		}
		facts = m.Facts
	} else if p, err := trust.DecodePack(pack); err == nil {
		// Nobody in particular: of whatever group the pack says it is for.
		if d, err := trust.ParseDirective(p.Directive); err == nil {
			facts.Group = d.Group
		}
	}
	t, err := publisher.Pack(pack, pin, facts, o.now())
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"fleet": t.Fleet, "freshness": t.Freshness.String(), "issued": t.Issued, "expires": t.Expires, "directive": t.Directive, "digest": t.Digest})
	}
	return o.printPack(t, facts)
}

func (o *verify) pin() (fleet.Digest, error) {
	if o.root != "" {
		return fleet.ParseDigest(o.root)
	}
	home, err := folder.Open(o.dir)
	return home.Root, err
}

func (o *verify) printPack(t trust.Trusted, facts fleet.Facts) error {
	err := o.Pairs("fleet", t.Fleet, "group", string(t.Directive.Group), "directive", fmt.Sprintf("#%d %s", t.Directive.Sequence, t.Digest.Short()),
		"signed", t.Issued.Format("2006-01-02 15:04:05Z"), "expires", t.Expires.Format("2006-01-02 15:04:05Z"), "state", t.Freshness.String())
	if err != nil {
		return err
	}
	for _, p := range t.Directive.Models {
		line := string(p.Model) + ": "
		if o.member != "" {
			line += p.Assign(facts).Reason
		} else {
			line += "stable is nothing"
			if p.Stable != nil {
				line = string(p.Model) + ": stable is " + p.Stable.Ref()
			}
			for _, over := range p.Overrides {
				line += fmt.Sprintf("; for %s it is %s", over.Selector, over.Release.Ref())
			}
			if x := p.Rollout; x != nil {
				line += fmt.Sprintf("; rollout %s exposes some members to %s", x.ID, x.Release.Ref())
			}
		}
		o.Print("%s", line)
	}
	for _, r := range t.Refused {
		o.Print("%s: refused: %v", r.Release, r.Err)
	}
	return nil
}
