package console_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func streams(terminal bool) (s console.Streams, out, err *bytes.Buffer) {
	out, err = &bytes.Buffer{}, &bytes.Buffer{}
	return console.Streams{In: strings.NewReader(""), Out: out, Err: err, Terminal: terminal}, out, err
}

func TestProblemEndsWithTheNextMoveAndItsKindsCode(t *testing.T) {
	s, out, err := streams(false)
	code := s.Problem("modelfleet", fault.Newf(fault.Untrusted, "verify pack", "default", "rule %s", "root").WithHint("enrol again"))
	if want := "modelfleet: verify pack default: rule root\nhint: enrol again\n"; err.String() != want || out.Len() > 0 {
		t.Errorf("said %q and %q, want %q", err, out, want)
	}
	if code != fault.Untrusted.Exit() {
		t.Errorf("code %d", code)
	}
	if code := s.Problem("modelfleet", errors.New("nobody classified this")); code != fault.Internal.Exit() {
		t.Errorf("an unclassified error ends with %d", code)
	}
}

// What comes from members and operators cannot move the cursor or fake a line.
func TestForeignTextStaysOnItsLine(t *testing.T) {
	s, out, err := streams(false)
	if e := s.Table("ID WHY", [][]string{{"a", "x\x1b[2Jy\nb  fake"}, {"b", ""}}); e != nil {
		t.Fatal(e)
	}
	if e := s.Pairs("why", "one\ntwo", "empty", ""); e != nil {
		t.Fatal(e)
	}
	s.Problem("modelfleet", errors.New("a\r\nb\x1b]0;title\x07"))
	for _, text := range []string{out.String(), err.String()} {
		if strings.ContainsAny(text, "\x1b\r\x07") {
			t.Errorf("controls in %q", text)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines, want header, two rows and one pair:\n%s", n, out)
	}
}

func TestProgressOnATerminalRedrawsItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, err := streams(true)
		p := s.Progress("upload", 200<<20)
		for i := range int64(20) {
			time.Sleep(50 * time.Millisecond)
			p.Set((i + 1) * 10 << 20)
		}
		p.Done("%d files", 3)
		p.Set(201 << 20) // late: after the end nothing is drawn
		text := err.String()
		if n := strings.Count(text, "\r"); n < 8 || n > 12 {
			t.Errorf("%d redraws in a second", n)
		}
		if strings.Contains(text, "left") {
			t.Errorf("it foretells from nothing: %q", text)
		}
		if !strings.Contains(text, "[###############.............]  55%  110.0 MiB of 200.0 MiB  200.0 MiB/s") || !strings.HasSuffix(text, "\r\x1b[Kupload: 3 files\n") {
			t.Errorf("drew %q", text)
		}
	})
}

func TestProgressSaysHowLongItTakesYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, err := streams(true)
		p := s.Progress("upload", 100<<20)
		for i := range int64(10) {
			time.Sleep(10 * time.Second)
			p.Set((i + 1) * 10 << 20)
		}
		if text := err.String(); !strings.Contains(text, "1.0 MiB/s") || !strings.Contains(text, "50s left") || !strings.Contains(text, "1m left") {
			t.Errorf("drew %q", text)
		}
	})
}

func TestProgressInALogIsQuietAndShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, err := streams(false)
		quick := s.Progress("hash", 100)
		for i := range int64(100) {
			quick.Set(i + 1)
		}
		quick.Done("done")
		if err.String() != "hash: done\n" {
			t.Errorf("a quick one says %q", err)
		}
		err.Reset()
		slow := s.Progress("upload", 100)
		for i := range int64(100) {
			time.Sleep(time.Second)
			slow.Set(i + 1)
		}
		slow.Stop()
		slow.Done("never said")
		if n := strings.Count(err.String(), "\n"); n != 9 || strings.Contains(err.String(), "\r") {
			t.Errorf("a slow one says %d lines:\n%s", n, err)
		}
	})
}

func TestSpansAndBytes(t *testing.T) {
	now := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	for got, want := range map[string]string{
		console.Ago(time.Time{}, now): "never", console.Ago(now.Add(-90*time.Second), now): "1m", console.Span(3 * time.Second): "3s",
		console.Span(30 * time.Hour): "30h", console.Span(72 * time.Hour): "3d", console.Span(-time.Hour): "now",
		console.Bytes(0): "0 B", console.Bytes(1536): "1.5 KiB", console.Bytes(5 << 40): "5.0 TiB",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
