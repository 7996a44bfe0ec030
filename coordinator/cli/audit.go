package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func (d *desk) auditCommands() *cobra.Command {
	return group("audit", "Read and verify the audit log",
		d.auditLog(), d.auditShow(), d.auditVerify(), d.auditCheckpoint(), d.auditSplits())
}

// auditLog is `audit log`.
type auditLog struct {
	*desk
	after                  uint64
	limit                  int
	follow                 bool
	every                  time.Duration
	action, subject, actor string
	from, until            string
	pick                   filter
}

// filter says which entries are wanted.
type filter struct {
	action, subject, actor string
	from, until            time.Time
}

func (f filter) all() bool { return f == filter{} }

// takes reports whether an entry is wanted. "rollout" and "rollout." take all
// actions of rollouts.
func (f filter) takes(e api.AuditEntry) bool {
	family := strings.TrimSuffix(f.action, ".") + "."
	return (f.action == "" || e.Action == f.action || strings.HasPrefix(e.Action, family)) &&
		(f.subject == "" || e.Subject == f.subject) && (f.actor == "" || e.Actor == f.actor) &&
		(f.from.IsZero() || !e.At.Before(f.from)) && (f.until.IsZero() || e.At.Before(f.until))
}

func (d *desk) auditLog() *cobra.Command {
	o := &auditLog{desk: d}
	cmd := &cobra.Command{
		Use: "log", Short: "Print the audit log", Args: cobra.NoArgs,
		Long: `Print the audit log: the latest entries, or those after a given one, oldest first.
With -o json and --follow or --after, it prints one entry per line.

Times are a date, a timestamp such as 2026-11-24T12:00:00Z, or an age such as 90m or 7d.`,
		Example: `  modelfleet audit log
  modelfleet audit log --follow
  modelfleet audit log --action directive.issued --from 7d
  modelfleet audit log --action member --subject line-07
  modelfleet audit log --actor ana --from 2026-11-01 --until 2026-12-01
  modelfleet audit log --after 0 --limit 0 -o json > audit.jsonl   # all of it`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.Flags().Changed("after"))
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&o.after, "after", 0, "start after the entry with this `number`")
	f.IntVar(&o.limit, "limit", 50, "maximum number of entries; 0: all")
	f.BoolVarP(&o.follow, "follow", "f", false, "keep printing new entries")
	f.DurationVar(&o.every, "every", time.Second, "polling interval of --follow")
	f.StringVar(&o.action, "action", "", "only this `action`, or action group: rollout.verdict, rollout")
	f.StringVar(&o.subject, "subject", "", "only entries about this `name`")
	f.StringVar(&o.actor, "actor", "", "only actions by this `name`")
	f.StringVar(&o.from, "from", "", "only entries at or after this `time`")
	f.StringVar(&o.until, "until", "", "only entries before this `time`")
	return cmd
}

func (o *auditLog) run(ctx context.Context, from bool) (err error) {
	o.pick = filter{action: o.action, subject: o.subject, actor: o.actor}
	if o.pick.from, err = moment(o.from, o.now()); err != nil {
		return err
	}
	if o.pick.until, err = moment(o.until, o.now()); err != nil {
		return err
	}
	client, err := o.client()
	if err != nil {
		return err
	}
	if from || o.limit <= 0 {
		err = o.pages(ctx, client, o.limit)
	} else {
		err = o.newest(ctx, client)
	}
	for err == nil && o.follow {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.every):
		}
		if err = o.pages(ctx, client, 0); fault.KindOf(err).Retry() {
			err = nil
		}
	}
	return err
}

// newest prints the newest entries that are wanted.
func (o *auditLog) newest(ctx context.Context, client *api.Client) error {
	var newest []api.AuditEntry
	if o.pick.all() {
		var err error
		if newest, err = client.Audit(ctx, 0, -o.limit); err != nil {
			return err
		}
		if len(newest) > 0 {
			o.after = newest[len(newest)-1].Index
		}
	} else if err := o.each(ctx, client, func(e api.AuditEntry) (bool, error) {
		newest = append(newest, e)
		newest = newest[max(0, len(newest)-o.limit):]
		return true, nil
	}); err != nil {
		return err
	}
	if o.json() && !o.follow {
		return o.JSON(list(newest))
	}
	for _, e := range newest {
		if err := o.print(e); err != nil {
			return err
		}
	}
	return nil
}

// pages prints what is wanted of what comes after o.after, at most limit entries,
// or all for 0.
func (o *auditLog) pages(ctx context.Context, client *api.Client, limit int) error {
	printed := 0
	return o.each(ctx, client, func(e api.AuditEntry) (bool, error) {
		printed++
		return limit == 0 || printed < limit, o.print(e)
	})
}

// each visits what is wanted after o.after, which moves, until visit has enough.
func (o *auditLog) each(ctx context.Context, client *api.Client, visit func(api.AuditEntry) (more bool, err error)) error {
	for {
		page, err := client.Audit(ctx, o.after, 500)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			if o.after = e.Index; !o.pick.takes(e) {
				continue
			}
			if more, err := visit(e); err != nil || !more {
				return err
			}
		}
	}
}

func (o *auditLog) print(e api.AuditEntry) error {
	if o.json() {
		return o.JSONLine(e)
	}
	o.Print("%6d  %s  %-14s %-20s %-16s %s", e.Index, e.At.Format("2006-01-02 15:04:05"), console.Clean(e.Actor), console.Clean(e.Action), console.Clean(e.Subject), console.Clean(e.Reason))
	return nil
}

// moment reads a time: a date, a time, or how long ago.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	days, isDays := strings.CutSuffix(text, "d")
	if isDays {
		text = days + "h"
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago < 0 {
		return time.Time{}, fault.Newf(fault.Invalid, "read time", text, "it is no time").
			WithHint("give a date (2026-11-24), a time (2026-11-24T12:00:00Z), or how long ago (90m, 7d)")
	}
	if isDays {
		ago *= 24
	}
	return now.Add(-ago), nil
}
