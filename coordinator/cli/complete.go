package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A shell waits for completions: one that cannot be had at once is none.
const completionTime = 2 * time.Second

// names are what the coordinator knows of one kind, each as "name\tdescription".
type names func(ctx context.Context, c *api.Client) ([]string, error)

// completions says, by the word that a command's Use has for its argument, what
// may stand there.
var completions = map[string]names{
	"ROLLOUT": func(ctx context.Context, c *api.Client) (found []string, err error) {
		all, err := c.Rollouts(ctx)
		for _, x := range all {
			found = append(found, string(x.ID)+"\t"+x.Release.Ref()+", "+stateText(x.State))
		}
		return found, err
	},
	"MEMBER": func(ctx context.Context, c *api.Client) (found []string, err error) {
		all, err := c.Members(ctx, fleet.Selector{})
		for _, m := range all {
			found = append(found, string(m.Facts.ID)+"\t"+m.Facts.Labels.String())
		}
		return found, err
	},
	"MODEL@VERSION": func(ctx context.Context, c *api.Client) (found []string, err error) {
		all, err := c.Releases(ctx)
		for _, r := range all {
			found = append(found, r.Release.Ref())
		}
		return found, err
	},
}

// complete gives every command what its first argument may be. Of files the
// shell knows more than we do.
func (d *desk) complete(cmd *cobra.Command) {
	words := strings.Fields(cmd.Use)
	switch {
	case cmd.HasSubCommands():
	case len(words) < 2:
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	case completions[words[1]] != nil:
		cmd.ValidArgsFunction = d.ask(completions[words[1]])
	case words[1] != "FILE" && words[1] != "FOLDER" && !strings.HasPrefix(words[1], "("):
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, c := range cmd.Commands() {
		d.complete(c)
	}
}

// ask completes a first argument by what the coordinator knows.
func (d *desk) ask(find names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := d.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		found, _ := find(ctx, client) // without a coordinator there is nothing to offer, and nobody to tell
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}
