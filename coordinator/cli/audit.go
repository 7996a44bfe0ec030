package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) auditCommands() *cobra.Command {
	return group("audit", "Read and check the log of every decision", d.auditLog(), d.auditVerify())
}

// auditLog is `audit log`.
type auditLog struct {
	*desk
	after  uint64
	limit  int
	follow bool
	every  time.Duration
}

func (d *desk) auditLog() *cobra.Command {
	o := &auditLog{desk: d}
	cmd := &cobra.Command{
		Use: "log", Short: "Print the audit log", Args: cobra.NoArgs,
		Long: `Print the audit log: the newest entries, or those after a given one, oldest first.
With -o json and --follow, or with --after, it prints one entry a line; that form
is what "audit verify --file" reads.`,
		Example: `  modelfleet audit log
  modelfleet audit log --follow
  modelfleet audit log --after 0 --limit 0 -o json > audit.jsonl   # all of it, to keep elsewhere`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.Flags().Changed("after"))
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&o.after, "after", 0, "begin after the entry of this `number`")
	f.IntVar(&o.limit, "limit", 50, "print at most so many; 0: all")
	f.BoolVarP(&o.follow, "follow", "f", false, "go on printing what is decided")
	f.DurationVar(&o.every, "every", time.Second, "how often --follow looks")
	return cmd
}

func (o *auditLog) run(ctx context.Context, from bool) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	if !from && o.limit > 0 {
		newest, err := client.Audit(ctx, 0, -o.limit)
		if err != nil {
			return err
		}
		if o.json() && !o.follow {
			return o.JSON(list(newest))
		}
		if err := o.print(newest); err != nil {
			return err
		}
		if len(newest) > 0 {
			o.after = newest[len(newest)-1].Index
		}
	} else if err := o.pages(ctx, client, o.limit); err != nil {
		return err
	}
	for o.follow {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.every):
		}
		if err := o.pages(ctx, client, 0); err != nil && !fault.KindOf(err).Retry() {
			return err
		}
	}
	return nil
}

// pages prints what comes after o.after, at most limit entries, or all for 0.
func (o *auditLog) pages(ctx context.Context, client *api.Client, limit int) error {
	for left := limit; limit == 0 || left > 0; {
		want := 500
		if limit > 0 {
			want = min(want, left)
		}
		page, err := client.Audit(ctx, o.after, want)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := o.print(page); err != nil {
			return err
		}
		o.after, left = page[len(page)-1].Index, left-len(page)
	}
	return nil
}

func (o *auditLog) print(entries []api.AuditEntry) error {
	for _, e := range entries {
		if o.json() {
			if err := o.JSONLine(e); err != nil {
				return err
			}
			continue
		}
		o.Print("%6d  %s  %-14s %-20s %-16s %s", e.Index, e.At.Format("2006-01-02 15:04:05"), console.Clean(e.Actor), console.Clean(e.Action), console.Clean(e.Subject), console.Clean(e.Reason))
	}
	return nil
}

// auditVerify is `audit verify`.
type auditVerify struct {
	*desk
	file string
	head string
}

func (d *desk) auditVerify() *cobra.Command {
	o := &auditVerify{desk: d}
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that nothing was changed, added or taken out of the audit log", Args: cobra.NoArgs,
		Long: `Check the hash chain of the audit log from its first entry: nothing was changed,
added in between or taken out. The chain's head is printed: keep it elsewhere, and
give it to --head next time, to find out whether the whole log was made anew.`,
		Example: `  modelfleet audit verify
  modelfleet audit verify --head 5f1c...e2    # a head that was kept before
  modelfleet audit verify --file audit.jsonl  # a copy, without the coordinator`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	cmd.Flags().StringVar(&o.file, "file", "", "check a copy made by \"audit log -o json\"")
	cmd.Flags().StringVar(&o.head, "head", "", "a `hash` that must be in the chain")
	return cmd
}

func (o *auditVerify) run(ctx context.Context) error {
	var want fleet.Digest
	if o.head != "" {
		var err error
		if want, err = fleet.ParseDigest(o.head); err != nil {
			return err
		}
	}
	c := chain{want: want}
	err := o.each(ctx, func(page []api.AuditEntry) error { return c.add(page) })
	if err != nil {
		return err
	}
	if !want.IsZero() && !c.found {
		return fault.Newf(fault.Untrusted, "verify audit log", "", "no entry has the hash %s", want.Short()).
			WithHint("the log was made anew since that head was kept, or it is another fleet's")
	}
	if o.json() {
		return o.JSON(map[string]any{"entries": c.n, "head": c.head, "ok": true})
	}
	o.Print("%d entries, unbroken", c.n)
	o.Print("head %s", c.head)
	return nil
}

// each hands the log over in pages, from the coordinator or from a copy.
func (o *auditVerify) each(ctx context.Context, add func([]api.AuditEntry) error) error {
	if o.file != "" {
		entries, err := readLog(o.file)
		if err != nil {
			return err
		}
		return add(entries)
	}
	client, err := o.client()
	if err != nil {
		return err
	}
	for after := uint64(0); ; {
		page, err := client.Audit(ctx, after, 500)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := add(page); err != nil {
			return err
		}
		after = page[len(page)-1].Index
	}
}

// chain is a log as far as it was checked.
type chain struct {
	n     int
	head  fleet.Digest
	want  fleet.Digest
	found bool
}

func (c *chain) add(page []api.AuditEntry) error {
	if len(page) > 0 && c.n == 0 && page[0].Index != 1 {
		return fault.Newf(fault.Untrusted, "verify audit log", "", "it begins with entry %d", page[0].Index).WithHint("make the copy with --after 0 --limit 0")
	}
	if err := api.CheckAudit(c.head, page); err != nil {
		return err
	}
	for _, e := range page {
		c.n, c.head, c.found = c.n+1, e.Hash, c.found || e.Hash == c.want
	}
	return nil
}

// readLog reads a copy: one JSON array, or an entry a line.
func readLog(path string) ([]api.AuditEntry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.NotFound, "read audit log", path, err)
	}
	dec := json.NewDecoder(bufio.NewReader(bytes.NewReader(b)))
	var entries []api.AuditEntry
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) {
		if err := dec.Decode(&entries); err != nil {
			return nil, fault.New(fault.Invalid, "read audit log", path, err)
		}
		return entries, nil
	}
	for {
		var e api.AuditEntry
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return entries, nil
		} else if err != nil {
			return nil, fault.New(fault.Invalid, "read audit log", path, fmt.Errorf("entry %d: %w", len(entries)+1, err))
		}
		entries = append(entries, e)
	}
}
