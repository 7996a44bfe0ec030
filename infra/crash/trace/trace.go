// Package trace reads what strace wrote of a process: which system calls it made,
// with all their bytes, when each began and when it had ended.
//
//	strace -f -y -xx -s 100000000 -o FILE -e trace=... PROGRAM
package trace

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Syscalls are those that change what is on a disk, or say which file is meant.
const Syscalls = "openat,openat2,open,creat,close,dup,dup2,dup3,fcntl,lseek," +
	"write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,splice,ftruncate,truncate,fallocate," +
	"fsync,fdatasync,syncfs,sync,sync_file_range,rename,renameat,renameat2,link,linkat,symlink,symlinkat," +
	"unlink,unlinkat,rmdir,mkdir,mkdirat,fchmod,fchmodat,chmod"

// Flags make strace write what [Parse] reads, of these system calls, to a file.
func Flags(file, syscalls string) []string {
	return []string{"strace", "-f", "-y", "-xx", "-s", "100000000", "-o", file, "-e", "signal=none", "-e", "trace=" + syscalls}
}

// Call is one system call that came back.
type Call struct {
	Name  string
	Args  []string // as strace writes them
	Ret   int64
	Start int // lines of the trace: where it began
	End   int // and where it had ended
}

// Failed reports whether it ended with an error.
func (c Call) Failed() bool { return c.Ret < 0 }

var ending = regexp.MustCompile(`\)\s+= (0x[0-9a-f]+|-?\d+|\?)[^=]*$`)

// Parse reads a trace. Calls are in the order in which they took effect as far as
// that can be told: by their end, and a close, which frees its number at once, by
// its beginning. A call that never came back is left out.
func Parse(r io.Reader) ([]Call, error) {
	var calls []Call
	type begun struct {
		text string
		line int
	}
	open := map[string]begun{} // by thread
	in := bufio.NewReaderSize(r, 1<<20)
	for line := 1; ; line++ {
		text, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && text == "" {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read trace: %w", err)
		}
		thread, text, ok := strings.Cut(strings.TrimRight(text, "\n"), " ")
		text = strings.TrimLeft(text, " ")
		if !ok || strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---") {
			continue
		}
		start := line
		if head, unfinished := strings.CutSuffix(text, " <unfinished ...>"); unfinished {
			open[thread] = begun{head, line}
			continue
		}
		if strings.HasPrefix(text, "<... ") {
			_, rest, _ := strings.Cut(text, " resumed>")
			text, start = open[thread].text+rest, open[thread].line
			delete(open, thread)
		}
		c, err := parseCall(text)
		if err != nil {
			return nil, fmt.Errorf("trace line %d: %w: %.200s", line, err, text)
		}
		c.Start, c.End = start, line
		calls = append(calls, c)
	}
	slices.SortStableFunc(calls, func(a, b Call) int { return a.at() - b.at() })
	return calls, nil
}

func (c Call) at() int {
	if c.Name == "close" {
		return c.Start
	}
	return c.End
}

func parseCall(text string) (Call, error) {
	name, rest, ok := strings.Cut(text, "(")
	m := ending.FindStringSubmatchIndex(rest)
	if !ok || m == nil {
		return Call{}, errors.New("not a system call")
	}
	c := Call{Name: name, Args: split(rest[:m[0]]), Ret: -1}
	if ret := rest[m[2]:m[3]]; ret != "?" {
		v, err := strconv.ParseInt(ret, 0, 64)
		if err != nil {
			return Call{}, err
		}
		c.Ret = v
	}
	return c, nil
}

// split cuts arguments at the commas that are not inside of anything.
func split(s string) []string {
	var args []string
	depth, quoted, from := 0, false, 0
	for i := range len(s) {
		switch b := s[i]; {
		case b == '"':
			quoted = !quoted // quotes within are written in hex
		case quoted:
		case strings.IndexByte("([{<", b) >= 0:
			depth++
		case strings.IndexByte(")]}>", b) >= 0:
			depth--
		case b == ',' && depth == 0:
			args = append(args, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(args, strings.TrimSpace(s[from:]))
}

// Arg is an argument; "" when there are not so many.
func (c Call) Arg(i int) string {
	if i >= len(c.Args) {
		return ""
	}
	return c.Args[i]
}

// Bytes are those of a string argument.
func (c Call) Bytes(i int) ([]byte, error) {
	s := c.Arg(i)
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return nil, fmt.Errorf("%s: argument %d is not a whole string: %.60s", c.Name, i, s)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s[1:len(s)-1], `\x`, ""))
	if err != nil {
		return nil, fmt.Errorf("%s: argument %d: %w", c.Name, i, err)
	}
	return b, nil
}

// Int is a number, or the number of a descriptor.
func (c Call) Int(i int) (int64, error) {
	s, _, _ := strings.Cut(c.Arg(i), "<")
	v, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: argument %d: %w", c.Name, i, err)
	}
	return v, nil
}

// Has reports whether a flag is in an argument.
func (c Call) Has(i int, flag string) bool {
	return slices.Contains(strings.Split(c.Arg(i), "|"), flag)
}

// Path is where the file of a descriptor argument lay, as strace saw it.
func (c Call) Path(i int) string {
	_, quoted, _ := strings.Cut(strings.TrimSuffix(c.Arg(i), ">"), "<")
	b, err := hex.DecodeString(strings.ReplaceAll(quoted, `\x`, ""))
	if err != nil {
		return quoted
	}
	return string(b)
}
