// Package console is what the operator's commands print with: the three
// streams, tables, JSON, progress on a terminal or in a log, and errors that end
// with a next move. It knows nothing of fleets.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Streams is where a command reads and writes. Out carries results and nothing
// else, so that it can be piped; Err carries everything said on the way.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	// Terminal says that a person watches Err: progress may redraw its line.
	Terminal bool
	// Person says that one also types at In: questions may be asked.
	Person bool
}

// System is the process's own streams.
func System() Streams {
	watched := term.IsTerminal(int(os.Stderr.Fd()))
	return Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: watched, Person: watched && term.IsTerminal(int(os.Stdin.Fd()))}
}

// Say prints a line for people.
func (s Streams) Say(format string, args ...any) { fmt.Fprintf(s.Err, format+"\n", args...) }

// Print prints a line of the result.
func (s Streams) Print(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

// JSON prints a value as indented JSON. An empty list is [], never null.
func (s Streams) JSON(v any) error {
	enc := json.NewEncoder(s.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// JSONLine prints a value as JSON on a line of its own.
func (s Streams) JSONLine(v any) error {
	enc := json.NewEncoder(s.Out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Table prints rows under a header, columns aligned.
func (s Streams) Table(header string, rows [][]string) error {
	w := tabwriter.NewWriter(s.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(strings.Fields(header), "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(clean(r), "\t"))
	}
	return w.Flush()
}

// Pairs prints names and values, one a line, values aligned. Pairs with an
// empty value are left out.
func (s Streams) Pairs(pairs ...string) error {
	w := tabwriter.NewWriter(s.Out, 0, 4, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s:\t%s\n", pairs[i], clean(pairs[i+1 : i+2])[0])
		}
	}
	return w.Flush()
}

// clean keeps text that came from elsewhere on its line and off the terminal's
// controls.
func clean(cells []string) []string {
	out := make([]string, len(cells))
	for i, c := range cells {
		out[i] = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
				return ' '
			}
			return r
		}, c)
		if out[i] == "" {
			out[i] = "-"
		}
	}
	return out
}

// Clean is text from elsewhere made fit to print on one line.
func Clean(s string) string {
	if s == "" {
		return ""
	}
	return clean([]string{s})[0]
}

// Problem prints an error as "modelfleet: op subject: cause" and its next move,
// and returns the exit code of its kind.
func (s Streams) Problem(program string, err error) int {
	s.Say("%s: %s", program, Clean(err.Error()))
	if hint := fault.Hint(err); hint != "" {
		s.Say("hint: %s", Clean(hint))
	}
	return fault.KindOf(err).Exit()
}
