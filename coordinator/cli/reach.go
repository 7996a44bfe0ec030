package cli

import (
	"cmp"
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// reach is how commands find the coordinator: flags, then the environment, then
// the context file.
type reach struct {
	file, url, pin string
}

func (r *reach) declare(flags *pflag.FlagSet) {
	flags.StringVar(&r.file, "context", "", "context `file` with the coordinator's address and your token")
	flags.StringVar(&r.url, "url", "", "the coordinator's `URL`, overriding the context")
	flags.StringVar(&r.pin, "pin", "", "SHA-256 of the coordinator's TLS key in `hex`, overriding the context")
}

// contextFile is the context in use, and whether somebody asked for just this one.
func (d *desk) contextFile() (path string, asked bool) {
	if path = cmp.Or(d.reach.file, d.env("MODELFLEET_CONTEXT")); path != "" {
		return path, true
	}
	dir := d.env("XDG_CONFIG_HOME")
	if dir == "" {
		dir = filepath.Join(d.env("HOME"), ".config")
	}
	return filepath.Join(dir, "modelfleet", "context.json"), false
}

// context is what commands reach the coordinator by.
func (d *desk) context() (api.Context, error) {
	path, asked := d.contextFile()
	c, err := api.LoadContext(path)
	url := cmp.Or(d.reach.url, d.env("MODELFLEET_URL"))
	switch {
	case err == nil:
	case fault.Is(err, fault.NotFound) && !asked && url != "":
		c = api.Context{}
	case fault.Is(err, fault.NotFound) && !asked:
		return c, fault.Newf(fault.NotFound, "find coordinator", "", "there is no context at %s", path).
			WithHint("`modelfleet context use FILE` keeps one; the coordinator's first is admin.context.json in its data folder")
	default:
		return c, err
	}
	if url != "" && url != c.URL {
		c.URL, c.Pin = url, "" // another server: the pin is not its own
	}
	c.Pin = cmp.Or(d.reach.pin, d.env("MODELFLEET_PIN"), c.Pin)
	c.Token = cmp.Or(d.env("MODELFLEET_TOKEN"), c.Token)
	return c, nil
}

// client speaks to the coordinator.
func (d *desk) client() (*api.Client, error) {
	c, err := d.context()
	if err != nil {
		return nil, err
	}
	client, err := c.Client()
	if err == nil {
		client.OnNotice(d.remind)
	}
	return client, err
}

// remind says once what the coordinator wants people to know.
func (d *desk) remind(text string) {
	d.reminded.Do(func() { d.Say("note: %s", console.Clean(text)) })
}

// keepContext writes a context file that its owner alone can read.
func keepContext(path string, c api.Context) error {
	text, err := c.Encode()
	if err != nil {
		return fault.New(fault.Internal, "keep context", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.New(fault.Denied, "make folder", filepath.Dir(path), err)
	}
	return cas.WriteFile(path, text, 0o600)
}

func (d *desk) contextCommands() *cobra.Command {
	return group("context", "Choose which coordinator to use", d.contextUse(), d.contextShow())
}

func (d *desk) contextUse() *cobra.Command {
	return &cobra.Command{
		Use: "use FILE", Short: "Save a context file as the default", Args: cobra.ExactArgs(1),
		Long: `Save a context file as the default for later commands. It is checked first: it must
parse, and the coordinator must accept it.`,
		Example: "  modelfleet context use /var/lib/modelfleet-coordinator/admin.context.json",
		RunE: run(func(ctx context.Context, args []string) error {
			c, err := api.LoadContext(args[0])
			if err != nil {
				return err
			}
			client, err := c.Client()
			if err != nil {
				return err
			}
			info, err := client.Fleet(ctx)
			if err != nil {
				return err
			}
			path, _ := d.contextFile()
			if err := keepContext(path, c); err != nil {
				return err
			}
			d.Say("speaking to fleet %s at %s (%s)", info.Name, c.URL, path)
			return nil
		}),
	}
}

func (d *desk) contextShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show which coordinator commands use", Args: cobra.NoArgs,
		Example: "  modelfleet context show\n  modelfleet context show -o json   # without the token",
		RunE: run(func(context.Context, []string) error {
			c, err := d.context()
			if err != nil {
				return err
			}
			token := "none"
			if c.Token != "" {
				token = "set"
			}
			if d.json() {
				c.Token = ""
				return d.JSON(c)
			}
			path, _ := d.contextFile()
			return d.Pairs("fleet", c.Fleet, "url", c.URL, "pin", c.Pin, "token", token, "file", path)
		}),
	}
}
