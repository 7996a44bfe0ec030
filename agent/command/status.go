package command

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// status prints how a running agent stands, from its local API.
func status(ctx context.Context, _ string, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("modelfleet-agent status", flag.ContinueOnError)
	socket := f.String("socket", local.DefaultSocket, "Unix `socket` of the agent")
	asJSON := f.Bool("json", false, "print JSON")
	if err := readFlags(f, args, "", stderr); err != nil {
		return err
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
	if l.Remedy != "" {
		fmt.Fprintf(stdout, "%s since %s: %s\n", l.Freshness, l.FreshnessSince.Format("2006-01-02 15:04:05Z"), l.Remedy)
	}
	if u := l.PackURL; u != nil {
		fmt.Fprintln(stdout, packURLText(*u))
	}
	if a := l.Audit; a != nil {
		fmt.Fprintf(stdout, "audit log %d entries, root hash %s", a.Entries, a.Root)
		if a.Unproven > 0 {
			fmt.Fprintf(stdout, ", %d other checkpoints not yet proven", a.Unproven)
		}
		fmt.Fprintln(stdout)
		if a.Split != "" {
			fmt.Fprintf(stdout, "HOLDS: %s\n", a.Split)
		}
	}
	if l.Refused != "" {
		fmt.Fprintf(stdout, "refused trust pack from %s\n", l.Refused)
	}
	if l.Damaged > 0 {
		files := "files were"
		if l.Damaged == 1 {
			files = "file was"
		}
		fmt.Fprintf(stdout, "%d %s found damaged on disk since the agent started\n", l.Damaged, files)
	}
	if len(l.Models) == 0 {
		_, err := fmt.Fprintln(stdout, "no model is assigned to this device yet")
		return err
	}
	return table(stdout, l.Models)
}

// packURLText is the line about the way to packs past the coordinator.
func packURLText(u local.PackURL) string {
	text := "without the coordinator: no URL of trust packs yet"
	if !u.Until.IsZero() {
		text = "without the coordinator: trust packs by URL until " + u.Until.UTC().Format("2006-01-02 15:04Z")
	}
	if u.Trouble != "" {
		text += "; " + u.Trouble
	}
	return text
}

// table prints how each model stands.
func table(stdout io.Writer, models []local.Model) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tSERVES\tWANTS\tSTATE\tWHY")
	for _, m := range models {
		serves := "-"
		if m.Serving != nil {
			serves = m.Serving.Ref
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, serves, cmp.Or(m.Want, "-"), m.Phase, m.Why)
		for _, line := range asides(m) {
			fmt.Fprintf(w, "\t\t\t\t%s\n", line)
		}
		for _, q := range m.Quarantined {
			why := q.Code
			if q.Text != m.Why && q.Text != m.Revoked { // which stands above
				why += ": " + q.Text
			}
			fmt.Fprintf(w, "\t\t\trefuses %s\t%s\n", q.Ref, why)
		}
	}
	return w.Flush()
}

// asides are the lines about a model that it mostly has none of: how far a fetch
// is, since when it fails, damage.
func asides(m local.Model) []string {
	var lines []string
	if m.Phase == fleet.Downloading {
		lines = append(lines, fetchText(m))
	}
	if !m.Failing.IsZero() && m.Failure != fleet.ReleaseFailure && m.Phase <= fleet.Failed {
		lines = append(lines, fmt.Sprintf("%s since %s", m.FailureCode, m.Failing.UTC().Format("2006-01-02 15:04:05Z")))
	}
	if m.Held != "" && m.Phase != fleet.Quarantined { // why it is in quarantine stands above
		then := "keeps its current release: "
		if m.Serving == nil {
			then = "waiting for another release: "
		}
		lines = append(lines, then+m.Held)
	}
	if m.Revoked != "" && m.Revoked != m.Why {
		lines = append(lines, m.Revoked)
	}
	switch {
	case m.Damaged:
		lines = append(lines, "files of the served release are damaged on disk; repairing")
	case m.Serving != nil && !m.Serving.Mended.IsZero():
		lines = append(lines, "damaged files repaired at "+m.Serving.Mended.UTC().Format("2006-01-02 15:04:05Z"))
	}
	return lines
}

// fetchText is how far a fetch is: "4.0 MiB of 18.0 MiB, 1.0 MiB/s, about 14s
// left: 4.0 MiB from the bucket". What is not known is not said.
func fetchText(m local.Model) string {
	text := update.SizeText(m.BytesDone) + " of " + update.SizeText(m.BytesTotal)
	if m.Rate > 0 {
		text += ", " + update.SizeText(m.Rate) + "/s"
	}
	if m.Left > 0 {
		text += ", about " + m.Left.String() + " left"
	}
	if m.BytesFrom != nil {
		text += ": " + m.BytesFrom.Text(update.SizeText)
	}
	if m.Waits != "" {
		text += "; waiting: " + m.Waits
	}
	if m.Trouble != "" {
		text += "; retrying after: " + m.Trouble
	}
	return text
}

// lift lets a release that failed here be tried again.
func lift(ctx context.Context, _ string, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("modelfleet-agent lift", flag.ContinueOnError)
	socket := f.String("socket", local.DefaultSocket, "Unix `socket` of the agent")
	if err := readFlags(f, args, "", stderr); err != nil {
		return err
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
		if q.Code == update.CodeRevoked {
			return fault.Newf(fault.Denied, "lift quarantine", q.Ref, "%s", q.Text).
				WithHint("its publisher can list it again; otherwise roll out another release")
		}
		if err := c.Lift(ctx, model, q.Root); err != nil {
			return err
		}
		_, err := fmt.Fprintf(stdout, "%s may be retried on this device; it was quarantined because of %s: %s\n", q.Ref, q.Code, q.Text)
		return err
	}
	return fault.Newf(fault.NotFound, "lift quarantine", f.Arg(0), "it is not quarantined here").
		WithHint("see modelfleet-agent status")
}
