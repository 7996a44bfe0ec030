// Package cli is the operator's commands, all of the program modelfleet:
// `modelfleet --help` lists them. What people do before there is a coordinator, or
// beside it, has packages of its own below: folder and ceremony (keys and roots),
// publisher (releases), medium (air gaps), auditor and doctor.
//
// Each command is an options struct, a constructor that declares its flags and a
// run method: everything it needs is handed in, nothing is global, so a command
// is tested by calling [Run]. Commands reach the coordinator through pkg/api
// only, and print results to standard output and everything else to standard
// error. Every list and description can be had as JSON with -o json; the JSON is
// pkg/api's and stays as it is.
//
//	os.Exit(cli.Run(ctx, cli.Options{Args: os.Args[1:], Streams: console.System(), Env: os.Getenv, Version: version}))
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options is what a run of the program gets.
type Options struct {
	Args    []string // without the program's name
	Streams console.Streams
	Env     func(string) string // os.Getenv
	Version string
	Now     func() time.Time // time.Now by default
}

const program = "modelfleet"

// Run runs a command and returns the exit code: 0, or that of the error's kind.
func Run(ctx context.Context, o Options) int {
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &desk{Streams: o.Streams, env: o.Env, now: o.Now, version: o.Version, reminded: new(sync.Once)}
	root := d.root()
	root.SetArgs(o.Args)
	root.SetIn(o.Streams.In)
	root.SetOut(o.Streams.Out)
	root.SetErr(o.Streams.Err)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		return fault.Canceled.Exit() // a person pressed Ctrl-C and knows it
	}
	if _, ok := errors.AsType[*fault.Error](err); !ok && !d.running {
		err = misread(cmd, err)
	}
	return d.Problem(program, err)
}

// misread says what is wrong with a command line, and how it is written.
func misread(cmd *cobra.Command, err error) error {
	text, _, _ := strings.Cut(err.Error(), "\n")
	var name string
	if _, failed := fmt.Sscanf(text, "unknown command %q", &name); failed == nil {
		return noCommand(cmd, name)
	}
	f := fault.New(fault.Invalid, "read command line", "", err)
	if strings.HasPrefix(text, "accepts ") || strings.HasPrefix(text, "requires ") {
		return f.WithHint("write `%s`; see `%s --help`", strings.TrimSuffix(cmd.UseLine(), " [flags]"), cmd.CommandPath())
	}
	return f.WithHint("see `%s --help`", cmd.CommandPath())
}

// noCommand says that cmd holds no command of that name.
func noCommand(cmd *cobra.Command, name string) error {
	err := fault.Newf(fault.Invalid, "read command line", cmd.CommandPath()+" "+name, "there is no such command")
	for cmd.SuggestionsMinimumDistance = 1; cmd.SuggestionsMinimumDistance <= 2; cmd.SuggestionsMinimumDistance++ { // the nearest
		if near := cmd.SuggestionsFor(name); len(near) > 0 {
			return err.WithHint("did you mean `%s %s`?", cmd.CommandPath(), near[0])
		}
	}
	return err.WithHint("see `%s --help`", cmd.CommandPath())
}

// desk is what all commands share.
type desk struct {
	console.Streams
	env     func(string) string
	now     func() time.Time
	version string
	running bool // the command line was understood

	reach    reach
	output   string
	reminded *sync.Once // what the coordinator wants people to know is said once
}

func (d *desk) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   program,
		Short: "Move models through their life on a fleet of devices and functions",
		Long: `modelfleet publishes signed models, rolls them out over a fleet in stages, and
takes a bad one back.

Commands find the coordinator through a context file: --context,
$MODELFLEET_CONTEXT, or the one saved by "modelfleet context use". On its first
start the coordinator writes one, admin.context.json, to its data folder.
$MODELFLEET_URL, $MODELFLEET_PIN and $MODELFLEET_TOKEN override single values.

Exit codes: 0 success, 1 internal error, 2 invalid input, 3 not found, 4 conflict,
5 denied, 6 not trusted, 7 out of space or over a limit, 8 temporary failure,
130 interrupted.`,
		Example: `  modelfleet init --dir orchard --name orchard --team vision --bucket orchard-models
  modelfleet context use /var/lib/modelfleet-coordinator/admin.context.json
  modelfleet publish ./detector-1.5 detector@1.5.0 --dir orchard
  modelfleet rollout start detector@1.5.0 --preset standard
  modelfleet rollout watch r7-k2xq`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if d.output != "table" && d.output != "json" {
				return fault.Newf(fault.Invalid, "read command line", "--output "+d.output, "it is neither table nor json")
			}
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	flags := cmd.PersistentFlags()
	flags.StringVarP(&d.output, "output", "o", "table", "output `format`: table or json")
	d.reach.declare(flags)
	cmd.SetHelpTemplate(helpTemplate)
	cmd.AddGroup(&cobra.Group{ID: "model", Title: "Models"}, &cobra.Group{ID: "fleet", Title: "Fleet"}, &cobra.Group{ID: "desk", Title: "This desk"})
	for group, cmds := range map[string][]*cobra.Command{
		"model": {d.publishCommand(), d.deltaCommand(), d.verifyCommand(), d.releaseCommands(), d.rolloutCommands()},
		"fleet": {d.initCommand(), d.keyCommands(), d.tokenCommands(), d.memberCommands(), d.packCommands(), d.auditCommands(), d.operatorCommands()},
		"desk":  {d.loginCommand(), d.logoutCommand(), d.whoamiCommand(), d.doctorCommand(), d.contextCommands(), d.versionCommand()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	cmd.AddCommand(d.signModelCommand(), d.verifyModelCommand(), d.capabilitiesCommand(), d.benchmarkModelCommand()) // hidden: for the conformance suite
	cmd.SuggestionsMinimumDistance = 2
	cmd.SetHelpCommandGroupID("desk")
	cmd.SetCompletionCommandGroupID("desk")
	d.notice(cmd)
	d.complete(cmd)
	return cmd
}

// notice has every command say when it begins: an error before that is about the
// command line.
func (d *desk) notice(cmd *cobra.Command) {
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			d.running = true
			return work(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		d.notice(c)
	}
}

// helpTemplate puts what a command is for before how it is called.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

// group is a command that only holds others.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return noCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(cmds...)
	return cmd
}

// run adapts a command's work to cobra.
func run(work func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error { return work(cmd.Context(), args) }
}

// ask is the work of a command that asks the coordinator for something and shows
// it: to people by show, or as JSON.
func ask[T any](d *desk, get func(ctx context.Context, c *api.Client, args []string) (T, error), show func(T) error) func(*cobra.Command, []string) error {
	return run(func(ctx context.Context, args []string) error {
		client, err := d.client()
		if err != nil {
			return err
		}
		answer, err := get(ctx, client, args)
		if err != nil {
			return err
		}
		if d.json() {
			return d.JSON(answer)
		}
		return show(answer)
	})
}

// json reports whether results are to be printed as JSON.
func (d *desk) json() bool { return d.output == "json" }

func (d *desk) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the program's version", Args: cobra.NoArgs,
		Example: "  modelfleet version\n  modelfleet version -o json",
		RunE: run(func(context.Context, []string) error {
			if d.json() {
				return d.JSON(map[string]string{"version": d.version})
			}
			d.Print("%s %s", program, d.version)
			return nil
		}),
	}
}
