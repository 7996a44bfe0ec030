package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/doctor"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// doctorRun is `doctor`.
type doctorRun struct {
	*desk
	dir     string
	named   bool // somebody named the folder
	offline bool
}

func (d *desk) doctorCommand() *cobra.Command {
	o := &doctorRun{desk: d}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Diagnose a fleet and suggest fixes", Args: cobra.NoArgs,
		Long: `Check a fleet from this machine, report problems and suggest fixes: the context, the
coordinator with its TLS key and clock, the bucket, the chain of trust from the
pinned root to each group's trust pack (verified as a member would), upcoming
expiries, the key files in the fleet's folder, and members that need attention.
Read-only.

The exit code is 0 if no check is bad, otherwise that of the worst finding.`,
		Example: `  modelfleet doctor --dir orchard
  modelfleet doctor --dir orchard --offline   # folder and bucket alone, without a coordinator
  modelfleet doctor -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.named = cmd.Flags().Changed("dir") || d.env("MODELFLEET_DIR") != ""
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", d.folderDefault(), "the fleet's `folder`; $MODELFLEET_DIR")
	f.BoolVar(&o.offline, "offline", false, "do not contact the coordinator")
	return cmd
}

func (o *doctorRun) run(ctx context.Context) error {
	opts := doctor.Options{Now: o.now, Version: o.version}
	var first []doctor.Check
	asks := "" // the fleet of the context
	add := func(name string, state doctor.State, text string) {
		first = append(first, doctor.Check{Name: name, State: state, Text: text})
	}
	if o.offline {
		add("context", doctor.Skip, "no coordinator is asked, as --offline says")
	} else if c, err := o.context(); err != nil {
		first = append(first, doctor.Failed("context", err))
	} else if opts.Client, err = c.Client(); err != nil {
		first = append(first, doctor.WithRemedy(doctor.Failed("context", err), "correct --url or --pin: the coordinator's https address, and the 64 hex digits of its log line \"serving\""))
	} else {
		path, _ := o.contextFile()
		add("context", doctor.OK, "fleet "+c.Fleet+" ("+path+")")
		asks = c.Fleet
		opts.URL, opts.Pinned = c.URL, c.Pin != ""
	}
	switch home, err := folder.Open(o.dir); {
	case err == nil && asks != "" && asks != home.Name:
		first = append([]doctor.Check{{
			Name: "fleets", State: doctor.Bad, Kind: fault.Conflict.String(),
			Text:   "the context is of fleet " + asks + ", the folder " + o.dir + " of fleet " + home.Name + ": these are two fleets, and only the folder's is looked at",
			Remedy: "name the folder of fleet " + asks + " with --dir, or a context of fleet " + home.Name + " with --context",
		}}, first...)
		opts.Client, opts.Home = nil, &home
	case err == nil:
		add("folder", doctor.OK, "fleet "+home.Name+" ("+o.dir+")")
		opts.Home = &home
	case fault.Is(err, fault.NotFound) && !o.named:
		add("folder", doctor.Skip, "none here: bucket, chain, packs and key files are not looked at; name it with --dir")
	default:
		first = append(first, doctor.Failed("folder", err))
	}
	report := doctor.Report{}
	for _, c := range first {
		report.Add(c)
	}
	for _, c := range doctor.Examine(ctx, opts).Checks {
		report.Add(c)
	}
	return o.print(report)
}

func (o *doctorRun) print(r doctor.Report) error {
	if o.json() {
		if err := o.JSON(r); err != nil {
			return err
		}
	} else {
		for _, c := range r.Checks {
			o.Print("%-4s  %-18s  %s", c.State, console.Clean(c.Name), console.Clean(c.Text))
			if c.Remedy != "" {
				o.Print("      %-18s  -> %s", "", console.Clean(c.Remedy))
			}
		}
	}
	kind, bad := r.Worst()
	switch {
	case bad:
		return fault.Newf(kind, "examine fleet", "", "%s bad", ofChecks(r.Bad, len(r.Checks))).WithHint("each bad check says what to do; start with the first")
	case r.Warn > 0:
		warn := "is a warning"
		if r.Warn != 1 {
			warn = "are warnings"
		}
		o.Say("nothing is bad; %d of %d checks %s", r.Warn, len(r.Checks), warn)
	default:
		o.Say("all %d checks are good", len(r.Checks))
	}
	return nil
}

// ofChecks is "1 of 16 checks is", "2 of 16 checks are".
func ofChecks(n, of int) string {
	verb := "are"
	if n == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%d of %d checks %s", n, of, verb)
}
