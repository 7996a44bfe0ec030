package play

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// Act is one scene of the demo and how it came out.
type Act struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Seconds float64 `json:"seconds"`
	Why     string  `json:"why"` // what was shown, or what went wrong
}

// Figure is something the demo measured.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// narrator tells the story: one line an event and, on a terminal, a progress bar
// where something is waited for. It is safe for concurrent use.
type narrator struct {
	out   io.Writer
	color bool
	width func() int // columns of the terminal; nil when there is none, and then no bars
	began time.Time

	mu      sync.Mutex
	bar     string // the bar on screen, "" when there is none
	acts    []Act
	figures []Figure
}

func newNarrator(out io.Writer) *narrator {
	n := &narrator{out: out, began: time.Now()}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		n.color = os.Getenv("NO_COLOR") == ""
		n.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd()))
			if err != nil || columns <= 0 {
				return 80
			}
			return columns
		}
	}
	return n
}

const (
	dim, bold, red, green, yellow, cyan = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
	plain                               = "\x1b[0m"
)

func (n *narrator) paint(style, s string) string {
	if !n.color {
		return s
	}
	return style + s + plain
}

// line writes one line above the bar, if there is one.
func (n *narrator) line(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear()
	fmt.Fprintln(n.out, s)
	fmt.Fprint(n.out, n.bar)
}

func (n *narrator) clear() {
	if n.bar != "" {
		fmt.Fprint(n.out, "\r\x1b[K")
	}
}

// say tells an event, with the time since the demo began.
func (n *narrator) say(format string, args ...any) {
	n.tell(n.wrap(fmt.Sprintf(format, args...)))
}

func (n *narrator) tell(text string) {
	at := time.Since(n.began).Seconds()
	n.line(n.paint(dim, fmt.Sprintf("%7.1fs ", at)) + " " + text)
}

var escape = regexp.MustCompile("\x1b\\[[0-9;]*m")

// wrap breaks text at spaces where the terminal would break words, and keeps it
// right of the time. Spaces at its beginning indent all of it.
func (n *narrator) wrap(text string) string {
	const margin = 10
	visible := func(s string) int { return utf8.RuneCountInString(escape.ReplaceAllString(s, "")) }
	if n.width == nil || margin+visible(text) < n.width() {
		return text
	}
	plainText := escape.ReplaceAllString(text, "")
	indent := strings.Repeat(" ", margin+len(plainText)-len(strings.TrimLeft(plainText, " ")))
	var b strings.Builder
	column := margin
	for i, word := range strings.Split(text, " ") {
		switch size := visible(word); {
		case i == 0:
			column += size
		case size > 0 && column > len(indent) && column+1+size >= n.width():
			b.WriteString("\n" + indent)
			column = len(indent) + size
		default:
			b.WriteByte(' ')
			column += 1 + size
		}
		b.WriteString(word)
	}
	return b.String()
}

// command shows a command that is being run, as one would type it.
func (n *narrator) command(args ...string) {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if a == "" || strings.ContainsAny(a, " \t\"'$*(){}!<>|&;") {
			quoted[i] = "'" + a + "'"
		}
	}
	n.tell(n.paint(cyan, "$ "+strings.Join(quoted, " "))) // not wrapped: somebody may copy it
}

// progress draws how far something is. done == total ends the bar.
func (n *narrator) progress(what string, done, total int) {
	if n.width == nil {
		return
	}
	bar := ""
	if done < total {
		const width = 24
		full := width * done / max(total, 1)
		bar = fmt.Sprintf("          [%s%s] %d/%d %s", strings.Repeat("#", full), strings.Repeat(".", width-full), done, total, what)
		bar = cut(bar, n.width()-1) // a bar that wraps cannot be redrawn in place
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if bar == n.bar {
		return
	}
	n.clear()
	n.bar = bar
	fmt.Fprint(n.out, bar)
}

// cut shortens text to so many columns.
func cut(s string, columns int) string {
	r := []rune(s)
	if len(r) <= columns {
		return s
	}
	if columns <= 0 {
		return ""
	}
	return string(r[:columns-1]) + "…"
}

// act tells one scene: f does it and returns what was shown. An error ends the
// act badly and is returned.
func (n *narrator) act(name string, f func() (string, error)) error {
	n.line("\n" + n.paint(bold, fmt.Sprintf("%d. %s", len(n.acts)+1, name)))
	start := time.Now()
	why, err := f()
	n.progress("", 0, 0)
	a := Act{Name: name, OK: err == nil, Seconds: time.Since(start).Round(time.Millisecond).Seconds(), Why: why}
	if err != nil {
		a.Why = err.Error()
		n.say("%s %s", n.paint(red, "FAILED"), err)
	} else {
		n.say("%s %s", n.paint(green, "ok"), why)
	}
	n.mu.Lock()
	n.acts = append(n.acts, a)
	n.mu.Unlock()
	return err
}

// figure records something measured.
func (n *narrator) figure(name string, value float64, unit string) {
	n.mu.Lock()
	n.figures = append(n.figures, Figure{Name: name, Value: value, Unit: unit})
	n.mu.Unlock()
}

// nameWidth is the column of the acts' names in the summary.
const nameWidth = 46

// summary is the table at the end. On a terminal an act that came out well has
// one line of it: everything has been told above.
func (n *narrator) summary() {
	n.line("\n" + n.paint(bold, "Summary"))
	for i, a := range n.acts {
		mark := n.paint(green, "ok    ")
		if !a.OK {
			mark = n.paint(red, "FAILED")
		}
		why, _, _ := strings.Cut(a.Why, "\n")
		if n.width != nil && a.OK {
			room := n.width() - len("  12  FAILED  123.4s  ") - nameWidth - 2
			if room < 24 {
				room = 0 // a stub says nothing
			}
			why = cut(why, room)
		}
		n.line(fmt.Sprintf("  %2d  %s %6.1fs  %-*s %s", i+1, mark, a.Seconds, nameWidth, a.Name, n.paint(dim, why)))
	}
	n.line("")
	for _, f := range n.figures {
		n.line(fmt.Sprintf("  %-52s %10.4g %s", f.Name, f.Value, f.Unit))
	}
}

// report is the demo's outcome as one JSON object.
func (n *narrator) report(w io.Writer) error {
	figures := make(map[string]Figure, len(n.figures))
	for _, f := range n.figures {
		figures[f.Name] = f
	}
	return json.NewEncoder(w).Encode(struct {
		Acts    []Act             `json:"acts"`
		Figures map[string]Figure `json:"figures"`
	}{n.acts, figures})
}
