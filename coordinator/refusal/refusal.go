// Package refusal keeps those who are refused from costing much: an address that
// is refused again and again has to wait, and the audit log gets the first refusal
// of each address and then a sum, not a line for every attempt.
//
//	if log.Blocked(from, now) { ... }                 // before anything is looked at
//	notes := log.Note(from, subject, err, now)        // after a refusal; to be appended
//	notes := log.Due(now)                             // now and then, for the sums
//
// Everything is bounded, since strangers decide what comes in. The package reads no
// clock and does no I/O.
package refusal

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
)

const (
	// PerMinute is how many refusals an address may collect in a minute before
	// nothing is looked at for the rest of it.
	PerMinute = 30

	// span is how long refusals of one address are gathered into one entry.
	span = 10 * time.Minute

	maxSources = 4096
	maxEntries = 64 // gathered at a time; what is beyond is gathered as one
	maxText    = 256

	others = "other addresses"
)

// Log remembers who was refused. The zero value is ready; it is safe for
// concurrent use.
type Log struct {
	mu      sync.Mutex
	minutes map[string]*minute
	entries map[string]*entry
}

// minute counts one address's refusals.
type minute struct {
	since time.Time
	n     int
}

// entry gathers refusals between two lines of the audit log.
type entry struct {
	since   time.Time
	n       int // besides the first, which has its own line
	subject string
	reason  string // of the newest
}

// Source is what an address, host:port or host, is counted as: itself, or its /64
// for IPv6, of which anybody has many.
func Source(addr string) string {
	var ip netip.Addr
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		ip = ap.Addr()
	} else if ip, err = netip.ParseAddr(addr); err != nil {
		return cmp.Or(clip(addr), "?")
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		p, err := ip.Prefix(64)
		if err != nil {
			return ip.String()
		}
		return p.String()
	}
	return ip.String()
}

// Blocked reports whether an address has to wait.
func (l *Log) Blocked(from string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.minutes[from]
	return m != nil && m.n >= PerMinute && now.Sub(m.since) < time.Minute && !now.Before(m.since)
}

// Note counts a refusal and returns what the audit log should get now.
func (l *Log) Note(from, subject string, refused error, now time.Time) []audit.Note {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(from, now)
	notes := l.due(now)
	if l.entries == nil {
		l.entries = map[string]*entry{}
	}
	if _, ok := l.entries[from]; !ok && len(l.entries) >= maxEntries {
		from = others
	}
	subject, reason := clip(subject), clip(refused.Error())
	if e := l.entries[from]; e != nil {
		e.n++
		e.subject, e.reason = subject, reason
		return notes
	}
	l.entries[from] = &entry{since: now, subject: subject, reason: reason}
	return append(notes, note(now, from, subject, reason))
}

// Due returns the sums whose time has come.
func (l *Log) Due(now time.Time) []audit.Note {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.due(now)
}

func (l *Log) due(now time.Time) []audit.Note {
	var notes []audit.Note
	for _, from := range slices.Sorted(maps.Keys(l.entries)) {
		e := l.entries[from]
		if now.Sub(e.since) < span && !now.Before(e.since) {
			continue
		}
		delete(l.entries, from)
		if e.n > 0 {
			notes = append(notes, note(now, from, e.subject, fmt.Sprintf("%d more since %s, the last: %s", e.n, e.since.UTC().Format(time.RFC3339), e.reason)))
		}
	}
	return notes
}

func note(now time.Time, from, subject, reason string) audit.Note {
	return audit.Note{
		At: now, Actor: audit.Coordinator, Action: audit.MemberRefused, Subject: subject, Reason: reason,
		Detail: map[string]string{"from": from},
	}
}

func (l *Log) count(from string, now time.Time) {
	if m := l.minutes[from]; m != nil && now.Sub(m.since) < time.Minute && !now.Before(m.since) {
		m.n++
		return
	}
	if len(l.minutes) >= maxSources {
		maps.DeleteFunc(l.minutes, func(_ string, m *minute) bool { return now.Sub(m.since) >= time.Minute || now.Before(m.since) })
	}
	if l.minutes == nil || len(l.minutes) >= maxSources { // more at once than one can count: begin anew
		l.minutes = map[string]*minute{}
	}
	l.minutes[from] = &minute{since: now, n: 1}
}

func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return s
}
