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
	return group("operator", "Manage operators and their tokens", d.operatorCreate(), d.operatorList(), d.operatorRotate(), d.operatorDelete())
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
		Use: "create NAME", Short: "Create an operator and a token", Args: cobra.ExactArgs(1),
		Long: `Create an operator. Each role includes the rights of the previous ones: viewer sees
everything; operator also starts, pauses and rolls back rollouts, creates join tokens
and admits releases; approver also approves stages; admin also manages operators.

--scope limits the role to some members and --models to some models: such an operator
sees only these, and can start a rollout only if its population selector includes the
scope. People with an account at the OpenID issuer need no token: see "modelfleet
login".

Only the token is printed to standard output; it is shown once. --save writes a
context file for the operator's machine instead.`,
		Example: `  modelfleet operator create ana --role operator --save ana.context.json
  modelfleet operator create bo --role operator --scope 'region=eu' --models 'vision/*' --ttl 2160h
  modelfleet operator create dashboards --role viewer`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.role, "role", string(api.Viewer), "viewer, operator, approver or admin")
	f.StringVar(&o.scope, "scope", "", "`selector` of the members in scope; default: all")
	f.StringSliceVar(&o.models, "models", nil, "models in scope, as `TEAM/MODEL` with * wildcards; repeatable; default: all")
	f.Lookup("models").DefValue = "[]" // which help leaves out
	f.DurationVar(&o.ttl, "ttl", 0, "lifetime of the token; default: until it is deleted")
	f.StringVar(&o.file, "save", "", "write a context `file` that holds the token")
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
		Use: "list", Aliases: []string{"ls"}, Short: "List operators and signed-in people", Args: cobra.NoArgs,
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
		Use: "rotate [NAME]", Short: "Replace an operator's token", Args: cobra.MaximumNArgs(1),
		Long: `Replace an operator's token. The old token and all sessions started with it end
immediately. Without a name, the token of the current context is replaced, and the
context file is updated. Only an admin can rotate other operators' tokens.`,
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
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "lifetime of the new token; default: until it is deleted or, if you are not an admin, until the old one would have expired")
	cmd.Flags().StringVar(&file, "save", "", "write a context `file` that holds the token")
	return cmd
}

func (d *desk) operatorDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete an operator's token, or sign a person out", Args: cobra.ExactArgs(1),
		Long: `Delete an operator's token. A person who signed in through the issuer is signed out
everywhere; to keep them out, remove them from their group at the issuer. Their
approvals of stages that have not started yet are withdrawn.`,
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
