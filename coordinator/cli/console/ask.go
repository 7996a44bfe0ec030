package console

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Ask asks a person for a line. An empty one is the usual answer.
func (s Streams) Ask(question, usual string) (string, error) {
	if usual != "" {
		fmt.Fprintf(s.Err, "%s [%s] ", question, usual)
	} else {
		fmt.Fprintf(s.Err, "%s ", question)
	}
	line, err := s.line()
	if err != nil {
		return "", fault.New(fault.Canceled, "ask", question, err)
	}
	if line == "" {
		return usual, nil
	}
	return line, nil
}

// line reads a line without reading ahead: the next question reads the next one.
func (s Streams) line() (string, error) {
	var b []byte
	for one := make([]byte, 1); ; {
		n, err := s.In.Read(one)
		switch {
		case n == 1 && one[0] == '\n':
			return strings.TrimSpace(string(b)), nil
		case n == 1:
			b = append(b, one[0])
		case err == io.EOF && len(b) > 0:
			return strings.TrimSpace(string(b)), nil
		case err != nil:
			return "", err
		}
	}
}

// Confirm asks a person to go on; anything but yes is no.
func (s Streams) Confirm(question string) (bool, error) {
	answer, err := s.Ask(question+" (yes/no)", "no")
	return err == nil && (answer == "yes" || answer == "y"), err
}

// Secret asks a person for something that is not to be seen.
func (s Streams) Secret(question string) ([]byte, error) {
	fmt.Fprintf(s.Err, "%s ", question)
	if f, ok := s.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(s.Err)
		if err != nil {
			return nil, fault.New(fault.Canceled, "ask", question, err)
		}
		return b, nil
	}
	line, err := s.line()
	if err != nil {
		return nil, fault.New(fault.Canceled, "ask", question, err)
	}
	return []byte(line), nil
}
