package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) membersPending() *cobra.Command {
	return &cobra.Command{
		Use: "pending", Short: "List members pending approval", Args: cobra.NoArgs,
		Long: `List members pending approval: they enrolled with a token created with --approve. The
device prints its key fingerprint too; compare the two before approving.`,
		Example: "  modelfleet members pending",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.PendingMember, error) {
			pending, err := c.Pending(ctx)
			return list(pending), err
		}, func(pending []api.PendingMember) error {
			if len(pending) == 0 {
				d.Say("no member waits")
				return nil
			}
			var rows [][]string
			for _, p := range pending {
				state := p.State
				if p.By != "" {
					state += " by " + p.By
				}
				rows = append(rows, []string{string(p.Member), p.Fingerprint, p.Labels.String(), p.From, p.Token, console.Ago(p.Since, d.now()), state})
			}
			return d.Table("MEMBER KEY LABELS FROM TOKEN SINCE STATE", rows)
		}),
	}
}

func (d *desk) membersApprove() *cobra.Command {
	var r api.ApprovalRequest
	cmd := &cobra.Command{
		Use: "approve MEMBER", Short: "Approve a pending member", Args: cobra.ExactArgs(1),
		Example: `  modelfleet members approve cork-07 --fingerprint 1f0c2a9b-77d10e35-c2a7f0aa-90be41d2
  modelfleet members approve cork-07 --reason 'seen on the bench'`,
		RunE: run(func(ctx context.Context, args []string) error {
			return d.answer(ctx, args[0], r, (*api.Client).ApproveMember, "%s is let in when it asks next; its key is %s")
		}),
	}
	cmd.Flags().StringVar(&r.Fingerprint, "fingerprint", "", "fingerprint of the `key` you mean; default: the pending one")
	cmd.Flags().StringVar(&r.Reason, "reason", "", "reason, for the audit log")
	return cmd
}

func (d *desk) membersDeny() *cobra.Command {
	var r api.ApprovalRequest
	cmd := &cobra.Command{
		Use: "deny MEMBER", Short: "Deny a pending member", Args: cobra.ExactArgs(1),
		Example: "  modelfleet members deny cork-07 --reason 'not one of ours'",
		RunE: run(func(ctx context.Context, args []string) error {
			if r.Reason == "" {
				return fault.Newf(fault.Invalid, "deny member", args[0], "no reason is given").WithHint("say why with --reason")
			}
			return d.answer(ctx, args[0], r, (*api.Client).DenyMember, "%s stays out; its key is %s")
		}),
	}
	cmd.Flags().StringVar(&r.Fingerprint, "fingerprint", "", "fingerprint of the `key` you mean; default: the pending one")
	cmd.Flags().StringVar(&r.Reason, "reason", "", "reason, for the audit log and the device's log")
	return cmd
}

// answer approves or denies. Without a fingerprint it is about the key that waits
// now, and no other that takes its place meanwhile.
func (d *desk) answer(ctx context.Context, name string, r api.ApprovalRequest, do func(*api.Client, context.Context, fleet.MemberID, api.ApprovalRequest) error, done string) error {
	id, err := fleet.ParseMemberID(name)
	if err != nil {
		return err
	}
	client, err := d.client()
	if err != nil {
		return err
	}
	if r.Fingerprint == "" {
		pending, err := client.Pending(ctx)
		if err != nil {
			return err
		}
		for _, p := range pending {
			if p.Member == id {
				r.Fingerprint = p.Fingerprint
			}
		}
	}
	if err := do(client, ctx, id, r); err != nil {
		return err
	}
	d.Say(done, id, r.Fingerprint)
	return nil
}

func (d *desk) membersUnlock() *cobra.Command {
	var r api.UnlockRequest
	cmd := &cobra.Command{
		Use: "unlock MEMBER", Short: "Unlock a member whose identity was copied", Args: cobra.ExactArgs(1),
		Long: `Unlock a member whose identity was copied (a disk image started twice, a restored
backup), once the copy has been destroyed. All certificates of the identity become
invalid; the real member rejoins by its key automatically.

The real member is recognised by its certificate: the lock names both certificates,
and each agent logs its own. The default is the one that was in use first. If the
other one is presented, the identity is locked again. If someone else may still have
the key, revoke the member and enrol it again.`,
		Example: `  modelfleet members describe cork-07
  modelfleet members unlock cork-07 --reason 'the image was started on the bench; wiped'
  modelfleet members unlock cork-07 --certificate 1f0c2a9b77d1 --reason 'the copy renewed first'`,
		RunE: run(func(ctx context.Context, args []string) error {
			id, err := fleet.ParseMemberID(args[0])
			if err != nil {
				return err
			}
			client, err := d.client()
			if err != nil {
				return err
			}
			if err := client.Unlock(ctx, id, r); err != nil {
				return err
			}
			d.Say("%s is unlocked: it comes back by its key, within a quarter of an hour", id)
			return nil
		}),
	}
	cmd.Flags().StringVar(&r.Certificate, "certificate", "", "prefix of the `SHA-256` of the real member's certificate; default: the one in use first")
	cmd.Flags().StringVar(&r.Reason, "reason", "", "finding, for the audit log (required)")
	return cmd
}

func (d *desk) membersAllowComeback() *cobra.Command {
	return &cobra.Command{
		Use: "allow-comeback MEMBER", Short: "Reset a member's comeback limit", Args: cobra.ExactArgs(1),
		Long: `Reset a member's comeback limit. A member whose certificate expired while it was off
rejoins by its key automatically, up to three times; after that an operator should
check it and reset the limit.`,
		Example: "  modelfleet members allow-comeback cork-07",
		RunE: run(func(ctx context.Context, args []string) error {
			id, err := fleet.ParseMemberID(args[0])
			if err != nil {
				return err
			}
			client, err := d.client()
			if err != nil {
				return err
			}
			if err := client.AllowComeback(ctx, id); err != nil {
				return err
			}
			d.Say("%s may come back again", id)
			return nil
		}),
	}
}

// identityPairs is what is known of a member's identity, for describe.
func identityPairs(m api.MemberInfo, now time.Time) []string {
	c := m.Certificate
	text := ""
	if c.Generation > 0 {
		text = c.Fingerprint.Short() + ", generation " + countText(c.Generation) + ", "
		if left := c.Expires.Sub(now); left > 0 {
			text += "for " + console.Span(left)
		} else {
			text += "expired " + console.Ago(c.Expires, now) + " ago"
		}
		text += ", by device CA " + c.Issuer.Short()
	}
	back := ""
	if c.Comebacks > 0 {
		back = countText(uint64(c.Comebacks)) + " times by its key"
	}
	hardware := ""
	if !c.Hardware.IsZero() {
		hardware = c.Hardware.Short()
	}
	unlock := ""
	if m.Locked != "" && !m.Revoked {
		unlock = fmt.Sprintf("modelfleet members unlock %s --certificate NAME --reason ..., once the copy is out of the world", m.Facts.ID)
	}
	return []string{"certificate", text, "came back", back, "hardware", hardware, "locked", m.Locked, "unlock", unlock}
}

// readHardware reads what --hardware names: a file with one machine a line, or the
// machines themselves.
func readHardware(arg string) ([]string, error) {
	if arg == "" {
		return nil, nil
	}
	f, err := os.Open(arg)
	if os.IsNotExist(err) && (strings.Contains(arg, ":") || len(strings.Split(arg, ",")[0]) == 64) {
		return strings.Split(arg, ","), nil
	}
	if err != nil {
		return nil, fault.New(fault.NotFound, "read hardware", arg, err).
			WithHint("name a file with one machine a line, or machines as `modelfleet-agent hardware` prints them")
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fault.New(fault.Invalid, "read hardware", arg, err)
	}
	if len(out) == 0 {
		return nil, fault.Newf(fault.Invalid, "read hardware", arg, "it names no machine").
			WithHint("one machine a line, as `modelfleet-agent hardware` prints them")
	}
	return out, nil
}
