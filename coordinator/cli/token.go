package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) tokenCommands() *cobra.Command {
	return group("token", "Manage join tokens", d.tokenCreate(), d.tokenList(), d.tokenDelete())
}

func (d *desk) tokenCreate() *cobra.Command {
	var labels map[string]string
	var group, kind string
	var uses int
	var ttl time.Duration
	var hardware string
	var approve bool
	var iam []string
	cmd := &cobra.Command{
		Use: "create", Short: "Create a join token", Args: cobra.NoArgs,
		Long: `Create a join token. It pins the fleet's root and the coordinator's TLS key, so a device
that enrols with it needs no other trust anchor. Only the token is printed to standard
output; it is shown once.

A token is a secret and may leak. Three flags restrict who can use it: --hardware to
the machines on a list, --approve to members an operator approves, --iam to functions
that run under an AWS role.`,
		Example: `  modelfleet token create
  modelfleet token create --label site=cork --label ring=lab --uses 16 --ttl 24h
  modelfleet-agent -join "$(modelfleet token create --label site=cork)"
  modelfleet token create --hardware machines.txt --ttl 720h
  modelfleet token create --approve --uses 10
  modelfleet token create --kind function --iam 'arn:aws:sts::123456789012:assumed-role/scorer/*' --uses 1000 --ttl 8760h`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if cmd.Flags().Changed("uses") && uses < 1 {
				return fault.Newf(fault.Invalid, "create token", fmt.Sprintf("--uses %d", uses), "a token needs at least one use").
					WithHint("give a number from 1 up, or leave --uses out for one use")
			}
			client, err := d.client()
			if err != nil {
				return err
			}
			machines, err := readHardware(hardware)
			if err != nil {
				return err
			}
			t, err := client.CreateToken(ctx, api.TokenRequest{
				Group: fleet.Group(group), Kind: fleet.Kind(kind), Labels: labels, Uses: uses, TTL: fleet.Duration(ttl),
				Hardware: machines, Approve: approve, IAM: iam,
			})
			if err != nil {
				return err
			}
			if d.json() {
				return d.JSON(t)
			}
			d.Print("%s", t.Text)
			with := ""
			if len(t.Labels) > 0 {
				with = " with labels " + t.Labels.String()
			}
			if asks := tokenAsks(t); asks != "" {
				with += ", " + asks
			}
			d.Say("token %s: %d %s may join group %s%s, until %s", t.ID, t.Uses, kindText(t.Kind, t.Uses), t.Group, with, t.Expires.Format(time.RFC3339))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&group, "group", "", "the `group` members join; default: the group named default")
	f.StringVar(&kind, "kind", "", "`kind` of member: device or function; default: device")
	f.StringToStringVar(&labels, "label", nil, "a `label=value` for every member; repeatable")
	f.Lookup("label").DefValue = ""
	f.IntVar(&uses, "uses", 0, "number of members that may join, at least 1; default: 1")
	f.DurationVar(&ttl, "ttl", 0, "lifetime of the token; default: 1h")
	f.StringVar(&hardware, "hardware", "", "the `machines` that may join, as printed by \"modelfleet-agent hardware\": a file with one per line, or a comma-separated list; --uses then defaults to their number")
	f.BoolVar(&approve, "approve", false, "require an operator's approval for each member: see members pending")
	f.StringSliceVar(&iam, "iam", nil, "the AWS `role` functions must run as: an assumed-role ARN, with * for any session; repeatable")
	return cmd
}

// tokenAsks is what a token asks for besides its secret.
func tokenAsks(t api.Token) string {
	var asks []string
	if n := len(t.Hardware); n > 0 {
		asks = append(asks, "on "+console.Count(n, "listed machine"))
	}
	if len(t.IAM) > 0 {
		asks = append(asks, "as "+strings.Join(t.IAM, " or "))
	}
	if t.Approve {
		asks = append(asks, "each approved by an operator")
	}
	return strings.Join(asks, ", ")
}

func kindText(k fleet.Kind, n int) string {
	if n == 1 {
		return string(k)
	}
	return string(k) + "s"
}

func (d *desk) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List join tokens", Args: cobra.NoArgs,
		Example: "  modelfleet token list",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.Token, error) {
			tokens, err := c.Tokens(ctx)
			return list(tokens), err
		}, func(tokens []api.Token) error {
			var rows [][]string
			for _, t := range tokens {
				left := "expired"
				if life := t.Expires.Sub(d.now()); life > 0 {
					left = console.Span(life)
				}
				rows = append(rows, []string{t.ID, string(t.Kind), string(t.Group), t.Labels.String(), fmt.Sprintf("%d of %d", t.Used, t.Uses), left, tokenAsks(t)})
			}
			return d.Table("TOKEN KIND GROUP LABELS USED LEFT ASKS", rows)
		}),
	}
}

func (d *desk) tokenDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TOKEN-ID", Short: "Delete a join token", Args: cobra.ExactArgs(1),
		Example: "  modelfleet token delete t-7f3a",
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := d.client()
			if err != nil {
				return err
			}
			if err := client.DeleteToken(ctx, args[0]); err != nil {
				return err
			}
			d.Say("token %s is deleted: nobody can join with it", args[0])
			return nil
		}),
	}
}
