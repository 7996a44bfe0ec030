package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
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
	cmd := &cobra.Command{
		Use: "create", Short: "Make a join token", Args: cobra.NoArgs,
		Long: `Make a join token. It pins the fleet's root and the coordinator's TLS key, so a
device that joins by it needs to trust nothing else. Standard output is the token
alone; it is shown once.`,
		Example: `  modelfleet token create
  modelfleet token create --label site=cork --label ring=lab --uses 16 --ttl 24h
  modelfleet-agent -join "$(modelfleet token create --label site=cork)"`,
		RunE: run(func(ctx context.Context, _ []string) error {
			client, err := d.client()
			if err != nil {
				return err
			}
			t, err := client.CreateToken(ctx, api.TokenRequest{Group: fleet.Group(group), Kind: fleet.Kind(kind), Labels: labels, Uses: uses, TTL: fleet.Duration(ttl)})
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
	return cmd
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
				rows = append(rows, []string{t.ID, string(t.Kind), string(t.Group), t.Labels.String(), fmt.Sprintf("%d of %d", t.Used, t.Uses), left})
			}
			return d.Table("TOKEN KIND GROUP LABELS USED LEFT", rows)
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

func (d *desk) operatorCommands() *cobra.Command {
	return group("operator", "Make the people who may use the coordinator", d.operatorCreate(), d.operatorList(), d.operatorDelete())
}

func (d *desk) operatorCreate() *cobra.Command {
	var role, file string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an operator and their token", Args: cobra.ExactArgs(1),
		Long: `Make an operator. Roles, each with the rights of those before it: viewer sees
everything; operator starts, pauses and takes back rollouts, makes join tokens
and admits releases; approver approves stages; admin makes operators.

Standard output is the token alone; it is shown once. --save writes a whole
context file instead, for the operator's own machine.`,
		Example: `  modelfleet operator create ana --role operator --save ana.context.json
  modelfleet operator create dashboards --role viewer`,
		RunE: run(func(ctx context.Context, args []string) error {
			conf, err := d.context()
			if err != nil {
				return err
			}
			client, err := conf.Client()
			if err != nil {
				return err
			}
			op, err := client.CreateOperator(ctx, api.OperatorRequest{Name: args[0], Role: api.Role(role)})
			if err != nil {
				return err
			}
			switch {
			case file != "":
				conf.Token = op.Text
				text, err := conf.Encode()
				if err == nil {
					err = cas.WriteFile(file, text, 0o600)
				}
				if err != nil {
					return fault.New(fault.KindOf(err), "save context", file, err).
						WithHint("the operator exists already: `modelfleet operator delete %s`, then try again", op.Name)
				}
				d.Say("%s is %s; `modelfleet context use %s` on their machine", op.Name, op.Role, file)
			case d.json():
				return d.JSON(op)
			default:
				d.Print("%s", op.Text)
				d.Say("%s is %s", op.Name, op.Role)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&role, "role", string(api.Viewer), "viewer, operator, approver or admin")
	cmd.Flags().StringVar(&file, "save", "", "write a context `file` with the token in it")
	return cmd
}

func (d *desk) operatorList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List operators", Args: cobra.NoArgs,
		Example: "  modelfleet operator list",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.OperatorToken, error) {
			ops, err := c.Operators(ctx)
			return list(ops), err
		}, func(ops []api.OperatorToken) error {
			var rows [][]string
			for _, o := range ops {
				rows = append(rows, []string{o.Name, string(o.Role)})
			}
			return d.Table("NAME ROLE", rows)
		}),
	}
}

func (d *desk) operatorDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Make an operator's token worthless", Args: cobra.ExactArgs(1),
		Example: "  modelfleet operator delete ana",
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := d.client()
			if err != nil {
				return err
			}
			if err := client.DeleteOperator(ctx, args[0]); err != nil {
				return err
			}
			d.Say("%s is no operator any more", args[0])
			return nil
		}),
	}
}
