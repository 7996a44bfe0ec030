package refusal_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/refusal"
)

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// An address that tries a thousand times costs the audit log two lines, and from
// the thirtieth on nobody listens to it for the rest of the minute.
func TestAnAddressThatTriesAndTriesCostsTwoLines(t *testing.T) {
	var l refusal.Log
	var notes []audit.Note
	denied, blocked := errors.New("the join token is unknown"), 0
	for i := range 1000 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		if l.Blocked("192.0.2.1", now) {
			blocked++
			continue
		}
		notes = append(notes, l.Note("192.0.2.1", "cam-1", denied, now)...)
	}
	if blocked != 1000-refusal.PerMinute || l.Blocked("192.0.2.2", start) || l.Blocked("192.0.2.1", start.Add(time.Minute)) {
		t.Errorf("%d attempts were not looked at", blocked)
	}
	notes = append(notes, l.Due(start.Add(11*time.Minute))...)
	if len(notes) != 2 || notes[0].Reason != denied.Error() || !strings.HasPrefix(notes[1].Reason, "29 more since 2026-03-04T05:06:07Z, the last: ") {
		t.Errorf("audited %+v", notes)
	}
	if again := l.Due(start.Add(time.Hour)); again != nil {
		t.Errorf("told twice: %+v", again)
	}
}

func TestManyAddressesAreGatheredToo(t *testing.T) {
	var l refusal.Log
	lines := 0
	for i := range 20_000 {
		from := refusal.Source(fmt.Sprintf("10.0.%d.%d:999", i/256, i%256))
		lines += len(l.Note(from, strings.Repeat("x", 1<<16), errors.New(strings.Repeat("y", 1<<16)), start))
	}
	for _, n := range l.Due(start.Add(time.Hour)) {
		if lines++; len(n.Reason) > 512 || len(n.Subject) > 256 {
			t.Fatalf("a note of %d bytes", len(n.Reason)+len(n.Subject))
		}
	}
	if lines > 2*65 {
		t.Errorf("%d lines for one bad day", lines)
	}
}

func TestSources(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:443": "192.0.2.1", "[::ffff:192.0.2.1]:1": "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"2001:db8:1:2::9": "2001:db8:1:2::/64", "[fe80::1%eth0]:5": "fe80::/64", "": "?", "pipe": "pipe",
	} {
		if got := refusal.Source(addr); got != want {
			t.Errorf("%q counts as %q, want %q", addr, got, want)
		}
	}
}
