package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// status prints how a running agent stands, from its local API.
func status(ctx context.Context, _ string, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("modelfleet-agent status", flag.ContinueOnError)
	f.SetOutput(stderr)
	socket := f.String("socket", local.DefaultSocket, "unix `socket` of the agent")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fault.New(fault.Invalid, "read flags", "", err)
	}
	l, err := local.NewClient(local.ClientOptions{Socket: *socket}).List(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(l)
	}
	fmt.Fprintf(stdout, "%s  agent %s  directive %d  %s\n", l.Member, l.Agent, l.Directive, l.Freshness)
	if l.Refused != "" {
		fmt.Fprintf(stdout, "refused trust pack from %s\n", l.Refused)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tSERVES\tWANTS\tSTATE\tWHY")
	for _, m := range l.Models {
		serves := "-"
		if m.Serving != nil {
			serves = m.Serving.Ref
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, serves, cmp.Or(m.Want, "-"), m.Phase, m.Why)
		for _, q := range m.Quarantined {
			fmt.Fprintf(w, "\t\t\trefuses %s\t%s: %s\n", q.Ref, q.Code, q.Text)
		}
	}
	return w.Flush()
}

// lift lets a release that failed here be tried again.
func lift(ctx context.Context, _ string, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("modelfleet-agent lift", flag.ContinueOnError)
	f.SetOutput(stderr)
	socket := f.String("socket", local.DefaultSocket, "unix `socket` of the agent")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fault.New(fault.Invalid, "read flags", "", err)
	}
	model, _, err := fleet.ParseRef(f.Arg(0))
	if err != nil {
		return err
	}
	c := local.NewClient(local.ClientOptions{Socket: *socket})
	m, err := c.Describe(ctx, model)
	if err != nil {
		return err
	}
	for _, q := range m.Quarantined {
		if q.Ref != f.Arg(0) {
			continue
		}
		if err := c.Lift(ctx, model, q.Root); err != nil {
			return err
		}
		_, err := fmt.Fprintf(stdout, "%s may be tried again here; it was refused because of %s: %s\n", q.Ref, q.Code, q.Text)
		return err
	}
	return fault.Newf(fault.NotFound, "lift quarantine", f.Arg(0), "it is not quarantined here").
		WithHint("see modelfleet-agent status")
}
