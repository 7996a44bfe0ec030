package health_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

var now = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

// TestFindings runs testdata: a line a role or certificate, and what is found.
//
//	root version=1 keys=a,b,c threshold=2 expires=80d life=365d
//	device-ca expires=20d
//	skew 3m
func TestFindings(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/findings.txt", func(t *testing.T, d *datadriven.TestData) string {
		var f health.Facts
		for line := range strings.Lines(d.Input) {
			words := strings.Fields(line)
			if words[0] == "skew" {
				f.Skew = span(t, words[1])
				continue
			}
			s := repository.Standing{Role: words[0], Version: 1, Threshold: 1}
			for _, w := range words[1:] {
				name, v, _ := strings.Cut(w, "=")
				switch name {
				case "version":
					fmt.Sscan(v, &s.Version)
				case "keys":
					s.Keys = strings.Split(v, ",")
				case "threshold":
					fmt.Sscan(v, &s.Threshold)
				case "expires":
					s.Expires = now.Add(span(t, v))
				case "issued": // ahead of now
					s.Issued = now.Add(span(t, v))
				case "life":
					s.Life = span(t, v)
				default:
					t.Fatalf("unknown word %q", w)
				}
			}
			if s.Role == "device-ca" {
				f.Certificates = append(f.Certificates, health.Certificate{Name: health.DeviceCA, NotBefore: now.Add(-time.Hour), NotAfter: s.Expires})
			} else {
				f.Roles = append(f.Roles, s)
			}
		}
		var out bytes.Buffer
		for _, x := range health.Findings(f, now) {
			if x.Remedy == "" {
				t.Errorf("%s: %s has no remedy", d.Pos, x.What)
			}
			fmt.Fprintf(&out, "%s %s: %s %s\n", x.Severity, x.Code, x.Subject, x.What)
		}
		if out.Len() == 0 {
			return "nothing\n"
		}
		return out.String()
	})
}

func span(t *testing.T, text string) time.Duration {
	t.Helper()
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		if _, err := fmt.Sscan(days, &n); err != nil {
			t.Fatal(err)
		}
		return time.Duration(n * float64(24*time.Hour))
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Of an expiry, less time left is never less grave.
func TestTimeNeverMakesItBetter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		role := rapid.SampledFrom([]string{"root", "targets", "pub-vision", "fleet", "snapshot", "timestamp"}).Draw(t, "role")
		life := time.Duration(rapid.Int64Range(int64(time.Hour), int64(500*24*time.Hour)).Draw(t, "life"))
		f := health.Facts{Roles: []repository.Standing{{Role: role, Version: 1, Keys: []string{"a", "b", "c"}, Threshold: 2, Expires: now.Add(life), Life: life}}}
		last := 0
		for at := now; at.Before(now.Add(life + time.Hour)); at = at.Add(life/16 + 1) {
			rank := 0
			if found := health.Findings(f, at); len(found) > 0 {
				rank = found[0].Severity.Rank() // the gravest first
			}
			if rank < last {
				t.Fatalf("%s of %s: %d after %d at %s", role, life, rank, last, at.Sub(now))
			}
			last = rank
		}
		if last != api.Bad.Rank() {
			t.Fatalf("it expired and nobody says so")
		}
	})
}

// A real fleet, freshly made: one root key on one machine is all there is to say.
func TestARealFleet(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Direct(f.Release("detector", "1.0.0"))
	facts, err := health.Of(f.Repo)
	if err != nil {
		t.Fatal(err)
	}
	got := health.Findings(facts, f.Now.Add(time.Hour))
	if len(got) != 1 || got[0].Code != health.CodeSigners || got[0].Severity != api.Advice {
		t.Errorf("a fresh fleet: %+v", got)
	}
	if n := len(health.Expiries(facts)); n != 6 {
		t.Errorf("%d roles run out, want root, policy, pub-vision, fleet, snapshot and timestamp", n)
	}
	late := health.Findings(facts, f.Now.Add(13*time.Hour))
	if late[0].Subject != "timestamp" || late[0].Code != health.CodeOverdue || late[0].Severity != api.Warning {
		t.Errorf("half a day without a timestamp: %+v", late)
	}
}
