package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) tokenCommands() *cobra.Command {
	return group("token", "Make the tokens that members join with", d.tokenCreate(), d.tokenList(), d.tokenDelete())
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
		Use: "create", Short: "Make a join token", Args: cobra.NoArgs,
		Long: `Make a join token. It pins the fleet's root and the coordinator's TLS key, so a
device that joins by it needs to trust nothing else. Standard output is the token
alone; it is shown once.

A token is a secret that may get lost. It can ask for more than itself: --hardware
for one of the machines on a list, --approve for an operator's word on each member,
--iam for the AWS role that a function runs as.`,
		Example: `  modelfleet token create
  modelfleet token create --label site=cork --label ring=lab --uses 16 --ttl 24h
  modelfleet-agent -join "$(modelfleet token create --label site=cork)"
  modelfleet token create --hardware machines.txt --ttl 720h
  modelfleet token create --approve --uses 10
  modelfleet token create --kind function --iam 'arn:aws:sts::123456789012:assumed-role/scorer/*' --uses 1000 --ttl 8760h`,
		RunE: run(func(ctx context.Context, _ []string) error {
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
		}),
	}
	f := cmd.Flags()
	f.StringVar(&group, "group", "", "the `group` that members join; by default the one named default")
	f.StringVar(&kind, "kind", "", "`kind` of what joins: device or function; device by default")
	f.StringToStringVar(&labels, "label", nil, "a `label=value` that every member gets; may be repeated")
	f.Lookup("label").DefValue = ""
	f.IntVar(&uses, "uses", 0, "how many members may join by it; 1 by default")
	f.DurationVar(&ttl, "ttl", 0, "how long it can be used; 1h by default")
	f.StringVar(&hardware, "hardware", "", "the `machines` that may join: a file with one a line, or a list with commas, as the agent's command hardware prints them; as many uses as machines by default")
	f.BoolVar(&approve, "approve", false, "an operator approves each member: see members pending")
	f.StringSliceVar(&iam, "iam", nil, "the `role` that functions may join as, the ARN of an assumed role with * for any session; may be repeated")
	return cmd
}

// tokenAsks is what a token asks for besides its secret.
func tokenAsks(t api.Token) string {
	var asks []string
	if n := len(t.Hardware); n > 0 {
		asks = append(asks, fmt.Sprintf("on %d listed machines", n))
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
		Use: "delete TOKEN-ID", Short: "Make a join token worthless", Args: cobra.ExactArgs(1),
		Example: "  modelfleet token delete t-7f3a",
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := d.client()
			if err != nil {
				return err
			}
			if err := client.DeleteToken(ctx, args[0]); err != nil {
				return err
			}
			d.Say("nobody can join by %s any more", args[0])
			return nil
		}),
	}
}
