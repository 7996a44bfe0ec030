package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// proposal is what is shown of one.
type proposal struct {
	Team     fleet.Team                 `json:"team"`
	ID       string                     `json:"id"`
	Key      string                     `json:"key"`
	Version  int64                      `json:"version"`
	State    string                     `json:"state"` // open, stale or refused
	Why      string                     `json:"why,omitempty"`
	Reason   string                     `json:"reason,omitempty"`
	Signers  []string                   `json:"signers,omitempty"`
	Missing  int                        `json:"missing,omitempty"`
	Added    []added                    `json:"added,omitempty"`
	Delisted []string                   `json:"delisted,omitempty"`
	Carried  []string                   `json:"carried,omitempty"` // listed under former keys, or too few: signed anew
	Lost     []lost                     `json:"lost,omitempty"`
	Floors   map[fleet.ModelName]uint64 `json:"floors,omitempty"`
}

// added is a release that a proposal lists.
type added struct {
	Release fleet.Release      `json:"release"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// lost is a release that former keys of the team listed and this version does not.
type lost struct {
	Release string `json:"release"`
	Why     string `json:"why"`
}

func show(p publisher.Proposal) proposal {
	out := proposal{Team: p.Team, ID: p.ID(), Key: p.Key, Version: p.Version, State: "open", Reason: p.Reason, Signers: p.Signers, Missing: p.Missing, Floors: p.Floors}
	if p.Err != nil {
		out.State, out.Why = "refused", p.Err.Error()
		if fault.Is(p.Err, fault.Conflict) {
			out.State = "stale"
		}
		return out
	}
	for _, e := range p.Added {
		out.Added = append(out.Added, added{e.Release, e.Metrics})
	}
	for _, r := range p.Delisted {
		out.Delisted = append(out.Delisted, r.Ref())
	}
	for _, r := range p.Carried {
		out.Carried = append(out.Carried, r.Ref())
	}
	for _, l := range p.Lost {
		out.Lost = append(out.Lost, lost{l.Release.Ref(), publisher.Cause(l.Why)})
	}
	return out
}

// changes is what a proposal changes, a line each.
func (p proposal) changes() []string {
	var out []string
	for _, a := range p.Added {
		line := "adds " + a.Release.Ref()
		for _, v := range a.Release.Variants {
			line += fmt.Sprintf("; %s: %s, identity %s", v.Name, console.Bytes(v.Size), v.Root.Short())
		}
		for _, name := range slices.Sorted(maps.Keys(a.Metrics)) {
			line += fmt.Sprintf("; %s=%.4g", name, a.Metrics[name])
		}
		out = append(out, line)
	}
	for _, ref := range p.Carried {
		out = append(out, "signs "+ref+" anew: until then no member may run it, as it is of former keys or too few")
	}
	for _, l := range p.Lost {
		out = append(out, fallsOff(l))
	}
	for _, ref := range p.Delisted {
		out = append(out, "takes back "+ref+": no member may run it any more")
	}
	for _, m := range slices.Sorted(maps.Keys(p.Floors)) {
		out = append(out, fmt.Sprintf("raises the floor of %s to counter %d: nothing older may run any more", m, p.Floors[m]))
	}
	if len(out) == 0 {
		out = append(out, "changes nothing but the expiry")
	}
	return out
}

func fallsOff(l lost) string {
	return l.Release + " falls off: it is not listed by this version (" + l.Why + ")"
}

// carries says what became of what a team published under former keys.
func (d *desk) carries(p publisher.Placed) {
	for _, r := range p.Carried {
		d.Say("  %s is signed anew: it was of former keys, or too few", r.Ref())
	}
	for _, l := range p.Lost {
		d.Say("  %s", console.Clean(fallsOff(lost{l.Release.Ref(), publisher.Cause(l.Why)})))
	}
	if len(p.Lost) > 0 {
		d.Say("  what fell off is published again under another version, by a key that the team has")
	}
}

func (d *desk) releasesProposals() *cobra.Command {
	o := &team{desk: d}
	var all bool
	cmd := &cobra.Command{
		Use: "proposals [TEAM]", Short: "List changes awaiting another signature", Args: cobra.MaximumNArgs(1),
		Long: `List changes to publisher roles that are awaiting another signature. Each is verified
first. Proposals superseded by another change are stale and shown only with --all.`,
		Example: "  modelfleet releases proposals --dir orchard\n  modelfleet releases proposals vision --all -o json",
		RunE: run(func(ctx context.Context, args []string) error {
			opts, _, err := o.bucket(ctx)
			if err != nil {
				return err
			}
			teams := opts.Repository.Teams()
			if len(args) == 1 {
				teams = []fleet.Team{fleet.Team(args[0])}
			}
			found := []proposal{}
			for _, t := range teams {
				ps, err := publisher.Proposals(ctx, opts, t)
				if err != nil {
					return err
				}
				for _, p := range ps {
					if s := show(p); all || s.State != "stale" {
						found = append(found, s)
					}
				}
			}
			if o.json() {
				return o.JSON(found)
			}
			return o.printProposals(found)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", o.folderDefault(), "the fleet's `folder`; $MODELFLEET_DIR")
	f.BoolVar(&all, "all", false, "include stale proposals")
	return cmd
}

func (d *desk) printProposals(found []proposal) error {
	if len(found) == 0 {
		d.Say("nothing waits for a signature")
		return nil
	}
	var rows [][]string
	for _, p := range found {
		what := p.Why
		if p.State == "open" {
			what = strings.Join(p.changes(), "; ")
		}
		rows = append(rows, []string{string(p.Team), p.ID, fmt.Sprint(p.Version), p.State, strings.Join(shortKeys(p.Signers), ","), console.Clean(what)})
	}
	return d.Table("TEAM ID VERSION STATE SIGNED CHANGE", rows)
}

func shortKeys(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id[:min(12, len(id))]
	}
	return out
}

// approval is `releases approve`.
type approval struct {
	team
	yes, check bool
}

func (d *desk) releasesApprove() *cobra.Command {
	o := &approval{team: team{desk: d}}
	cmd := o.declare(&cobra.Command{
		Use: "approve TEAM [ID]", Short: "Co-sign a proposed release change", Args: cobra.RangeArgs(1, 2),
		Long: `Co-sign a team's proposal and, once complete, publish the role to the bucket. The
proposal is first verified as a member would: signatures, paths, counters, the bundle
of each release and, with --check, every byte of its files. The command shows what
would change and asks for confirmation. The key must differ from the proposer's.`,
		Example: `  modelfleet releases approve vision --dir orchard --key ben.pem --check
  modelfleet releases approve vision 3f9a --dir orchard --key ben.pem --yes`,
		RunE: run(func(ctx context.Context, args []string) error {
			o.team.team = args[0]
			return o.run(ctx, append(args, "")[1])
		}),
	})
	f := cmd.Flags()
	f.BoolVarP(&o.yes, "yes", "y", false, "sign without confirmation")
	f.BoolVar(&o.check, "check", false, "also verify every file of the releases")
	_ = f.MarkHidden("team") // it is the argument
	_ = f.MarkHidden("reason")
	return cmd
}

func (o *approval) run(ctx context.Context, id string) error {
	opts, name, err := o.open(ctx)
	if err != nil {
		return err
	}
	p, err := publisher.Choose(ctx, opts, name, id)
	if err != nil {
		return err
	}
	if o.check {
		bar := o.Progress("check", 0)
		checked, err := p.Check(ctx, opts, bar.Set)
		bar.Stop()
		if err != nil {
			return err
		}
		for _, c := range checked {
			o.Say("%s %s: %s, %s: every byte matches its signature", c.Release.Ref(), c.Variant, console.Count(c.Files, "file"), console.Bytes(c.Bytes))
		}
	}
	s := show(p)
	o.Say("proposal %s of team %s, version %d of its role, signed by key %s", s.ID, name, s.Version, strings.Join(shortKeys(s.Signers), ", "))
	for _, line := range s.changes() {
		o.Say("  %s", console.Clean(line))
	}
	if s.Reason != "" {
		o.Say("  because: %s", console.Clean(s.Reason))
	}
	if !o.yes {
		if !o.Person {
			return fault.Newf(fault.Invalid, "approve proposal", s.ID, "it is not confirmed, and there is no terminal to ask on").WithHint("nothing was signed; run it on a terminal, or confirm with --yes")
		}
		if yes, err := o.Confirm("Sign this?"); err != nil || !yes {
			return fault.New(fault.Canceled, "approve proposal", s.ID, err).WithHint("nothing was signed")
		}
	}
	placed, err := publisher.Approve(ctx, opts, p)
	if err != nil {
		return err
	}
	if o.json() {
		if err := o.JSON(placed); err != nil {
			return err
		}
	}
	if !placed.Done() {
		o.proposed("approved "+s.ID, placed)
		return nil
	}
	o.Say("approved: it is version %d of %s's role", s.Version, name)
	if o.noAdmit {
		return nil
	}
	return o.admission(ctx, name, "version "+fmt.Sprint(s.Version)+" of team "+string(name))
}
