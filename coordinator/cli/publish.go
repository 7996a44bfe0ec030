package cli

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// patience is how long a bucket that stopped answering in the middle is waited for.
const patience = 2 * time.Minute

// publish is `publish`.
type publish struct {
	*desk
	dir, team, key, variant string
	classes, also           []string
	metrics                 map[string]string
	minAgent, card, series  string
	dryRun, noAdmit         bool
	noDelta                 bool
	deltas                  deltaFlags
	keyless                 keylessFlags
}

func (d *desk) publishCommand() *cobra.Command {
	o := &publish{desk: d}
	cmd := &cobra.Command{
		Use: "publish FOLDER MODEL@VERSION", Short: "Sign, upload and admit a model folder", Args: cobra.ExactArgs(2),
		Long: `Sign a model folder (OpenSSF Model Signing), upload its files, list it in the team's
signed role, and ask the coordinator to admit it.

Content already in the bucket is not uploaded again. The command is idempotent: run it
again to finish an interrupted run. A published version never changes.

Members running another version fetch only the difference: deltas are created from the
previous version and, if the coordinator can be reached, from the versions that most
members run.

If the fleet's policy requires it, the release also needs a keyless (Sigstore)
signature by the build pipeline's identity: give its token with
--identity-token-file. This needs a build with -tags keyless.

A release can hold one variant per hardware class: --also adds more folders. All
variants of a version are published together.`,
		Example: `  modelfleet publish ./detector-1.5 detector@1.5.0 --dir orchard
  modelfleet publish ./detector-1.5 detector@1.5.0 --metric accuracy=0.962 --card ./detector-1.5/README.md
  modelfleet publish ./fp16 detector@1.5.0 --variant fp16 --classes jetson,rtx --also int8:cortex-a=./int8
  modelfleet publish ./detector-1.5 detector@1.5.0 --delta-from 1.4.0,1.3.2
  modelfleet publish ./detector-1.5 detector@1.5.0 --key awskms:///alias/modelfleet/orchard/publisher-vision
  modelfleet publish ./detector-1.5 detector@1.5.0 --dry-run`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0], args[1]) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", cmp.Or(d.env("MODELFLEET_DIR"), "."), "the fleet's `folder`, with the publisher's key; $MODELFLEET_DIR")
	f.StringVar(&o.key, "key", "", "the team's `KEY`: a file, or awskms:///...; default: the key in the fleet's folder")
	f.StringVar(&o.team, "team", "", "publish as this `team`; default: the team the key belongs to")
	f.StringVar(&o.variant, "variant", fleet.DefaultVariant, "`name` of the folder's variant")
	f.StringSliceVar(&o.classes, "classes", nil, "hardware `classes` the variant is for; default: any")
	f.StringArrayVar(&o.also, "also", nil, "another variant, as `NAME:CLASS,CLASS=FOLDER`; repeatable")
	f.StringToStringVar(&o.metrics, "metric", nil, "evaluation result `name=value`, signed with the release; repeatable")
	f.Lookup("metric").DefValue = ""
	f.StringVar(&o.minAgent, "min-agent", "", "minimum agent `version`")
	f.StringVar(&o.card, "card", "", "model card `file`, whose digest is signed with the release")
	f.StringVar(&o.series, "baseline", "", "baseline statistics `file`, whose digest is signed with the release")
	o.deltas.declare(f, "delta-from")
	f.BoolVar(&o.noDelta, "no-delta", false, "create no deltas")
	cmd.MarkFlagsMutuallyExclusive("no-delta", "delta-from")
	o.keyless.declare(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "hash, sign and check, but write nothing")
	f.BoolVar(&o.noAdmit, "no-admit", false, "do not ask the coordinator to admit it")
	return cmd
}

func (o *publish) run(ctx context.Context, source, ref string) error {
	r, err := o.release(source, ref)
	if err != nil {
		return err
	}
	to, name, err := (&team{desk: o.desk, dir: o.dir, team: o.team, key: o.key}).open(ctx)
	if err != nil {
		return err
	}
	r.Team = name
	deltas := publisher.Deltas{Off: o.noDelta}
	if !o.noDelta {
		if deltas, err = o.deltas.of(ctx, o.desk, r.Model); err != nil {
			return err
		}
	}
	signing, err := o.keyless.signing()
	if err != nil {
		return err
	}
	progress, stop := o.progress()
	to.DryRun, to.Deltas, to.Keyless, to.Progress = o.dryRun, deltas, signing, progress
	to.Patience = patience
	out, err := publisher.Publish(ctx, to, r)
	stop()
	if err != nil {
		if ctx.Err() != nil && !o.dryRun {
			o.Say("interrupted: what was sent stays in the bucket, and the same command goes on from there")
		}
		return err
	}
	return o.finish(ctx, out)
}

// finish says what was done and asks for admission.
func (o *publish) finish(ctx context.Context, out publisher.Outcome) error {
	ref := out.Release.Ref()
	switch {
	case o.dryRun:
		o.Say("%s would be published by team %s; nothing was written", ref, out.Release.Team)
	case out.Proposal != nil:
		o.proposed(ref, *out.Proposal)
	case out.Published:
		o.Say("published %s by team %s", ref, out.Release.Team)
	default:
		o.Say("%s was published before, just so", ref)
	}
	o.carries(out.Placed)
	if o.json() {
		if err := o.JSON(out); err != nil {
			return err
		}
	}
	if o.dryRun || o.noAdmit || out.Proposal != nil {
		return nil
	}
	return o.admission(ctx, out.Release.Team, ref)
}

// release reads the command line.
func (o *publish) release(source, ref string) (publisher.Release, error) {
	model, version, err := fleet.ParseRef(ref)
	if err != nil {
		return publisher.Release{}, err
	}
	r := publisher.Release{Model: model, Version: version, MinAgent: o.minAgent, Card: o.card, Baseline: o.series,
		Sources: []publisher.Source{{Dir: source, Variant: o.variant, Classes: o.classes}}}
	for _, text := range o.also {
		src, err := parseAlso(text)
		if err != nil {
			return r, err
		}
		if slices.ContainsFunc(r.Sources, func(s publisher.Source) bool { return s.Variant == src.Variant }) {
			return r, fault.Newf(fault.Invalid, "read --also", text, "variant %s is given twice", src.Variant)
		}
		r.Sources = append(r.Sources, src)
	}
	if r.Metrics, err = parseMetrics(o.metrics); err != nil {
		return r, err
	}
	return r, nil
}

// parseAlso reads "NAME:CLASS,CLASS=FOLDER".
func parseAlso(text string) (publisher.Source, error) {
	head, dir, ok := strings.Cut(text, "=")
	name, classes, _ := strings.Cut(head, ":")
	if !ok || name == "" || dir == "" {
		return publisher.Source{}, fault.Newf(fault.Invalid, "read --also", text, "it is not NAME:CLASS,CLASS=FOLDER").WithHint("write for example --also int8:cortex-a=./int8")
	}
	src := publisher.Source{Dir: dir, Variant: name}
	if classes != "" {
		src.Classes = strings.Split(classes, ",")
	}
	return src, nil
}

// progress shows publishing's steps as bars or lines.
func (d *desk) progress() (p publisher.Progress, stop func()) {
	var bar *console.Progress
	return publisher.Progress{
			Step: func(what string, total int64) { bar = d.Progress(what, total) },
			At: func(done int64) {
				if bar != nil {
					bar.Set(done)
				}
			},
			Settled: func(format string, args ...any) { bar.Done(format, args...) },
		}, func() {
			if bar != nil {
				bar.Stop()
			}
		}
}

// parseMetrics reads numbers, in the order of their names so that the first
// mistake is always the same.
func parseMetrics(texts map[string]string) (map[string]float64, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	out := make(map[string]float64, len(texts))
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		v, err := parseNumber(texts[name])
		if err != nil {
			return nil, fault.New(fault.Invalid, "read --metric", name+"="+texts[name], err)
		}
		out[name] = v
	}
	return out, nil
}
