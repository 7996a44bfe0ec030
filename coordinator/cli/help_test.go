package cli

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
)

var update = flag.Bool("update", false, "rewrite the golden help")

func newDesk() *desk {
	return &desk{Streams: console.Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}, env: func(string) string { return "" }, now: time.Now, version: "test"}
}

// leaves visits every command that does something.
func leaves(cmd *cobra.Command, visit func(*cobra.Command)) {
	cmd.InitDefaultHelpFlag()
	for _, c := range cmd.Commands() {
		if c.Name() != "help" && c.Name() != "completion" {
			leaves(c, visit)
		}
	}
	if !cmd.HasSubCommands() {
		visit(cmd)
	}
}

// The help of every command is a text someone has read.
func TestHelpIsAsItWasRead(t *testing.T) {
	var text strings.Builder
	root := newDesk().root()
	var all func(*cobra.Command)
	all = func(cmd *cobra.Command) {
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		text.WriteString("==== " + cmd.CommandPath() + "\n" + out.String() + "\n")
		for _, c := range cmd.Commands() {
			if c.Name() != "help" && c.Name() != "completion" {
				all(c)
			}
		}
	}
	all(root)
	const path = "testdata/help.txt"
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("help differs (-want +got); read it, then run with -update:\n%s", diff)
	}
}

func TestEveryCommandHasAnExampleThatCallsIt(t *testing.T) {
	leaves(newDesk().root(), func(cmd *cobra.Command) {
		if cmd.Short == "" || !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: short %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for line := range strings.SplitSeq(cmd.Long, "\n") {
			if len(line) > 90 {
				t.Errorf("%s: a line of its help has %d columns: %s", cmd.CommandPath(), len(line), line)
			}
		}
	})
}

// Examples are commands that parse: flags exist, arguments are as many as wanted.
func TestExamplesParse(t *testing.T) {
	root := newDesk().root()
	leaves(root, func(leaf *cobra.Command) {
		for line := range strings.SplitSeq(strings.ReplaceAll(leaf.Example, "\\\n", " "), "\n") {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
			for _, stop := range []string{" | ", " && ", " > ", `"$(`} {
				line, _, _ = strings.Cut(line, stop)
			}
			args := splitQuoted(line)
			if len(args) == 0 || args[0] != program {
				continue
			}
			cmd, rest, err := newDesk().root().Find(args[1:])
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if err := cmd.ValidateRequiredFlags(); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	})
}

// splitQuoted splits a command line whose only quotes are single ones.
func splitQuoted(line string) []string {
	var args []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args
}
