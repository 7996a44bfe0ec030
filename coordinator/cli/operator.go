package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) operatorCommands() *cobra.Command {
	return group("operator", "Make the people who may use the coordinator", d.operatorCreate(), d.operatorList(), d.operatorRotate(), d.operatorDelete())
}

// operatorCreate is `operator create`.
type operatorCreate struct {
	*desk
	role, scope, file string
	models            []string
	ttl               time.Duration
}

func (d *desk) operatorCreate() *cobra.Command {
	o := &operatorCreate{desk: d}
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an operator and their token", Args: cobra.ExactArgs(1),
		Long: `Make an operator. Roles, each with the rights of those before it: viewer sees
everything; operator starts, pauses and takes back rollouts, makes join tokens
and admits releases; approver approves stages; admin makes operators.

--scope narrows the role to members and --models to models: such an operator sees
only these members, and starts rollouts only whose population says so. People who
have an account at an OpenID issuer need no token: see "modelfleet login".

Standard output is the token alone; it is shown once. --save writes a whole
context file instead, for the operator's own machine.`,
		Example: `  modelfleet operator create ana --role operator --save ana.context.json
  modelfleet operator create bo --role operator --scope 'region=eu' --models 'vision/*' --ttl 2160h
  modelfleet operator create dashboards --role viewer`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.role, "role", string(api.Viewer), "viewer, operator, approver or admin")
	f.StringVar(&o.scope, "scope", "", "a `selector` of the members it is for; by default all")
	f.StringSliceVar(&o.models, "models", nil, "the models it is for, as `TEAM/MODEL` with *; may be repeated; by default all")
	f.Lookup("models").DefValue = ""
	f.DurationVar(&o.ttl, "ttl", 0, "how long the token is good; by default until it is deleted")
	f.StringVar(&o.file, "save", "", "write a context `file` with the token in it")
	return cmd
}

func (o *operatorCreate) run(ctx context.Context, name string) error {
	scope := api.Scope{Models: o.models}
	var err error
	if scope.Members, err = fleet.ParseSelector(o.scope); err != nil {
		return err
	}
	conf, err := o.context()
	if err != nil {
		return err
	}
	client, err := conf.Client()
	if err != nil {
		return err
	}
	op, err := client.CreateOperator(ctx, api.OperatorRequest{Name: name, Role: api.Role(o.role), Scope: scope, TTL: fleet.Duration(o.ttl)})
	if err != nil {
		return err
	}
	return o.give(conf, op, o.file)
}

// give hands out a new token: by a context file, as JSON or as a line.
func (d *desk) give(conf api.Context, op api.OperatorToken, file string) error {
	what := string(op.Role)
	if !op.Scope.IsZero() {
		what += " for " + op.Scope.String()
	}
	if !op.Expires.IsZero() {
		what += " until " + op.Expires.Format(time.RFC3339)
	}
	switch {
	case file != "":
		conf.Token = op.Text
		if err := keepContext(file, conf); err != nil {
			return fault.New(fault.KindOf(err), "save context", file, err).
				WithHint("the token is lost: `modelfleet operator rotate %s` gives another", op.Name)
		}
		d.Say("%s is %s; `modelfleet context use %s` on their machine", op.Name, what, file)
	case d.json():
		return d.JSON(op)
	default:
		d.Print("%s", op.Text)
		d.Say("%s is %s", op.Name, what)
	}
	return nil
}

func (d *desk) operatorList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List operators, and people who are signed in", Args: cobra.NoArgs,
		Example: "  modelfleet operator list",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.OperatorToken, error) {
			ops, err := c.Operators(ctx)
			return list(ops), err
		}, func(ops []api.OperatorToken) error {
			var rows [][]string
			for _, o := range ops {
				by, left := o.By, "no end"
				if o.Session {
					by = "sign-in"
				}
				if !o.Expires.IsZero() {
					left = "ended"
					if life := o.Expires.Sub(d.now()); life > 0 {
						left = console.Span(life)
					}
				}
				used := "never"
				if !o.Used.IsZero() {
					used = console.Span(d.now().Sub(o.Used)) + " ago"
				}
				rows = append(rows, []string{o.Name, string(o.Role), o.Scope.String(), by, used, left})
			}
			return d.Table("NAME ROLE SCOPE BY USED LEFT", rows)
		}),
	}
}

func (d *desk) operatorRotate() *cobra.Command {
	var ttl time.Duration
	var file string
	cmd := &cobra.Command{
		Use: "rotate [NAME]", Short: "Give an operator a new token in place of the old", Args: cobra.MaximumNArgs(1),
		Long: `Give an operator a new token. The old one, and every session begun with it, is
over at once. Without a name it is the token of the context in use, which then
holds the new one. Others' tokens are an admin's to rotate.`,
		Example: `  modelfleet operator rotate
  modelfleet operator rotate ana --save ana.context.json`,
		RunE: run(func(ctx context.Context, args []string) error {
			conf, err := d.context()
			if err != nil {
				return err
			}
			client, err := conf.Client()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				me, err := client.Whoami(ctx)
				if err != nil {
					return err
				}
				args = []string{me.Name}
				if file == "" {
					file, _ = d.contextFile()
				}
			}
			op, err := client.RotateOperator(ctx, args[0], api.RotateRequest{TTL: fleet.Duration(ttl)})
			if err != nil {
				return err
			}
			return d.give(conf, op, file)
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long the new token is good; by default until it is deleted, or until the old one would end where you are no admin")
	cmd.Flags().StringVar(&file, "save", "", "write a context `file` with the token in it")
	return cmd
}

func (d *desk) operatorDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Make an operator's token worthless, or sign a person out", Args: cobra.ExactArgs(1),
		Long: `Make an operator's token worthless. A person who signed in is signed out
everywhere; to keep them out, take them out of their group at the issuer. What
either approved, and is still waited for, does not count any more.`,
		Example: "  modelfleet operator delete ana\n  modelfleet operator delete ana@example.com",
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
