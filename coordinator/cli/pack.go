package cli

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/medium"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// carry is `pack export` and `pack import`.
type carry struct {
	*desk
	dir, group, root, to string
	releases             []string
	all                  bool
}

func (d *desk) packCommands() *cobra.Command {
	return group("pack", "Transfer trust packs and releases across an air gap", d.packExport(), d.packImport())
}

const archiveSuffix = ".tar"

func (d *desk) packExport() *cobra.Command {
	o := &carry{desk: d}
	cmd := &cobra.Command{
		Use: "export (FOLDER | FILE.tar)", Short: "Export the latest trust pack and releases to a medium", Args: cobra.ExactArgs(1),
		Long: `Export the latest trust pack of a group to a medium and, with --release or --all, the
releases it names. Everything is verified from the pinned root while it is copied. The
pack tells members behind an air gap what to run, which releases are delisted and
which members are revoked.

Agents can read an exported folder directly; a tar file needs "pack import".`,
		Example: `  modelfleet pack export /media/stick --all
  modelfleet pack export orchard-noon.tar --release detector@1.5.0
  modelfleet-agent -pack /media/stick/packs/default.pack.zst -source /media/stick ...`,
		RunE: run(func(ctx context.Context, args []string) error { return o.export(ctx, args[0]) }),
	}
	o.declare(cmd)
	cmd.Flags().StringArrayVar(&o.releases, "release", nil, "include this `release`; repeatable")
	cmd.Flags().BoolVar(&o.all, "all", false, "include every release that the pack names")
	return cmd
}

func (d *desk) packImport() *cobra.Command {
	o := &carry{desk: d}
	cmd := &cobra.Command{
		Use: "import (FOLDER | FILE.tar) --to FOLDER", Short: "Verify an export and copy it to a site's folder", Args: cobra.ExactArgs(1),
		Long: `Verify the output of "pack export" from the pinned root, and copy it to the folder that
a site's agents read: -pack FOLDER/packs/GROUP.pack.zst and -source FOLDER. A pack
older than the one in the folder is refused and nothing changes: members never accept
a pack older than the latest they have seen.`,
		Example: "  modelfleet pack import /media/stick --to /srv/modelfleet --root 4f1c...\n  modelfleet pack import orchard-noon.tar --to /srv/modelfleet --dir orchard",
		RunE:    run(func(ctx context.Context, args []string) error { return o.take(ctx, args[0]) }),
	}
	o.declare(cmd)
	cmd.Flags().StringVar(&o.to, "to", "", "destination `folder`")
	return cmd
}

func (o *carry) declare(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", cmp.Or(o.env("MODELFLEET_DIR"), "."), "the fleet's `folder`; $MODELFLEET_DIR")
	f.StringVar(&o.group, "group", string(fleet.DefaultGroup), "`group` whose trust pack to transfer")
	f.StringVar(&o.root, "root", "", "`digest` of the root to pin; default: from fleet.json")
}

// options are those of both ways, with the pin that --root or the folder names.
func (o *carry) options() (medium.Options, folder.Folder, error) {
	g, err := fleet.ParseGroup(o.group)
	if err != nil {
		return medium.Options{}, folder.Folder{}, err
	}
	out := medium.Options{Group: g, Releases: o.releases, All: o.all, Now: o.now()}
	home, err := folder.Open(o.dir)
	if o.root != "" {
		out.Pin, err = fleet.ParseDigest(o.root)
	} else {
		out.Pin = home.Root
	}
	return out, home, err
}

func (o *carry) export(ctx context.Context, path string) error {
	opts, home, err := o.options()
	if err != nil {
		return err
	}
	if home.Bucket == "" {
		_, err := folder.Open(o.dir)
		return err
	}
	bucket, err := folder.OpenBucket(ctx, home.FleetFile)
	if err != nil {
		return err
	}
	bar := o.Progress("copy", 0)
	opts.Progress = bar.Set
	out, err := exportTo(ctx, bucket, path, opts)
	bar.Stop()
	if err != nil {
		return err
	}
	return o.show("exported to", path, out)
}

// exportTo writes to a folder or a tar file, as the name says.
func exportTo(ctx context.Context, bucket registry.Reader, path string, opts medium.Options) (medium.Carried, error) {
	if !strings.HasSuffix(path, archiveSuffix) {
		sink, err := medium.OpenFolder(path)
		if err != nil {
			return medium.Carried{}, err
		}
		return medium.Export(ctx, bucket, sink, opts)
	}
	sink, err := medium.CreateArchive(path)
	if err != nil {
		return medium.Carried{}, err
	}
	out, err := medium.Export(ctx, bucket, sink, opts)
	return out, sink.Close(err)
}

func (o *carry) take(ctx context.Context, path string) error {
	if o.to == "" {
		return fault.Newf(fault.Invalid, "import pack", path, "it is not said to where").WithHint("say --to FOLDER, the one that the site's agents have as their -source")
	}
	opts, _, err := o.options()
	if o.root == "" && fault.Is(err, fault.NotFound) {
		return fault.Newf(fault.Invalid, "import pack", path, "there is no fleet folder here that says which root to pin").
			WithHint("give it with --root: the digest that is \"rootDigest\" in the fleet's fleet.json, brought by another way than the medium; or name a folder that has that file with --dir")
	} else if err != nil {
		return err
	}
	from, closing, err := openMedium(path)
	if err != nil {
		return err
	}
	to, err := medium.OpenFolder(o.to)
	if err == nil {
		bar := o.Progress("copy", 0)
		opts.Progress = bar.Set
		var out medium.Carried
		out, err = medium.Import(ctx, from, to, opts)
		bar.Stop()
		if err == nil {
			err = o.show("imported to", o.to, out)
		}
	}
	if cerr := closing(); err == nil {
		err = cerr
	}
	return err
}

// openMedium opens a folder or a tar file.
func openMedium(path string) (registry.Reader, func() error, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, nil, fault.New(fault.NotFound, "read medium", path, err).WithHint("is the medium plugged in?")
	}
	if fi.IsDir() {
		d, err := dir.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	a, err := medium.OpenArchive(path)
	if err != nil {
		return nil, nil, err
	}
	return a, a.Close, nil
}

// show says what lies there now.
func (o *carry) show(what, path string, c medium.Carried) error {
	if o.json() {
		return o.JSON(c)
	}
	o.Say("%s %s: directive #%d of group %s, signed %s, good until %s", what, path, c.Directive, c.Group, c.Signed.Format("2006-01-02 15:04:05Z"), c.Expires.Format("2006-01-02 15:04:05Z"))
	if c.Stale {
		o.Say("it has expired: members hold what they have until a newer one comes")
	}
	if len(c.Releases) > 0 {
		o.Say("releases: %s, %s", strings.Join(c.Releases, ", "), console.Bytes(c.Bytes))
	}
	for _, r := range c.Refused {
		o.Say("members refuse %s", r)
	}
	if len(c.Revoked) > 0 {
		o.Say("revoked members: %s", strings.Join(c.Revoked, ", "))
	}
	if !strings.HasSuffix(path, archiveSuffix) {
		o.Say("agents read it with -pack %s -source %s", filepath.Join(path, filepath.FromSlash(c.Group.PackKey())), path)
	}
	return nil
}
