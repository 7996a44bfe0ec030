package doctor_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/doctor"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

var now = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

// seen is a coordinator that answers with these values.
type seen struct {
	health   api.Health
	members  []api.MemberInfo
	releases []api.ReleaseInfo
	info     api.FleetInfo
}

func (s seen) examine(t *testing.T) doctor.Report {
	t.Helper()
	mux := http.NewServeMux()
	for path, v := range map[string]any{"/v1/health": s.health, "/v1/members": s.members, "/v1/releases": s.releases, "/v1/fleet": s.info} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		api.WriteProblem(w, fault.Newf(fault.NotFound, "serve", r.URL.Path, "there is no such call"))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	c, err := api.NewClient(api.Options{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return doctor.Examine(t.Context(), doctor.Options{Client: c, URL: srv.URL, Now: func() time.Time { return now }, Version: "v1"})
}

// state is that of the first check of a name whose text has the words.
func state(r doctor.Report, name, words string) doctor.State {
	for _, c := range r.Checks {
		if c.Name == name && strings.Contains(c.Text, words) {
			return c.State
		}
	}
	return "absent"
}

func member(id fleet.MemberID, edit func(*api.MemberInfo)) api.MemberInfo {
	m := api.MemberInfo{Facts: fleet.Facts{ID: id, Kind: fleet.Device}, Seen: now.Add(-time.Second), Freshness: "fresh"}
	if edit != nil {
		edit(&m)
	}
	return m
}

func release(v fleet.Version, root string, members int, revoked bool) api.ReleaseInfo {
	return api.ReleaseInfo{Release: fleet.Release{Team: "vision", Model: "m", Version: v, Variants: []fleet.Variant{{Root: fleet.DigestOf([]byte(root))}}}, Members: members, Revoked: revoked}
}

func TestWhatNeedsALookIsNamed(t *testing.T) {
	t.Parallel()
	good := seen{health: api.Health{At: now, Version: "v1"}, members: []api.MemberInfo{member("a", nil)}, releases: []api.ReleaseInfo{release("1", "one", 1, false)}}
	for _, c := range []struct {
		name, check, words string
		edit               func(*seen)
		want               doctor.State
		worst              fault.Kind
	}{
		{"nothing", "members", "none stale", func(*seen) {}, doctor.OK, 0},
		{"an older coordinator", "coordinator", "has version v0", func(s *seen) { s.health.Version = "v0" }, doctor.Warn, 0},
		{"a clock behind", "clock", "behind", func(s *seen) { s.health.At = now.Add(9 * time.Minute) }, doctor.Bad, fault.Invalid},
		{"a clock that is a little ahead", "clock", "ahead", func(s *seen) { s.health.At = now.Add(-2 * time.Minute) }, doctor.Warn, 0},
		{"a finding", "expiry", "root expires", func(s *seen) {
			s.health.Findings = []api.Finding{{Severity: api.Urgent, Code: "expiry", Subject: "root", What: "expires in 3 days", Remedy: "renew"}}
		}, doctor.Warn, 0},
		{"an expired root", "expiry", "root expired", func(s *seen) {
			s.health.Findings = []api.Finding{{Severity: api.Bad, Code: "expiry", Subject: "root", What: "expired", Remedy: "renew"}}
		}, doctor.Bad, fault.Untrusted},
		{"an untrusting member", "members", "1 member untrusted", func(s *seen) {
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Freshness = "untrusted" }))
		}, doctor.Bad, fault.Untrusted},
		{"a stale member", "members", "1 member stale, holding what is there: b", func(s *seen) {
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Freshness = "STALE" }))
		}, doctor.Warn, 0},
		{"a silent device", "members", "1 device silent for 10m0s: b", func(s *seen) {
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Seen = now.Add(-time.Hour) }))
		}, doctor.Warn, 0},
		{"a silent function, which is as it should be", "members", "none stale", func(s *seen) {
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Seen, m.Facts.Kind = now.Add(-time.Hour), fleet.Function }))
		}, doctor.OK, 0},
		{"a clone", "members", "1 member locked", func(s *seen) {
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Locked = "copied" }))
		}, doctor.Bad, fault.Denied},
		{"a revoked member, of whom nothing is expected", "members", "1 member, none stale", func(s *seen) {
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Revoked, m.Freshness = true, "untrusted" }))
		}, doctor.OK, 0},
		{"somebody at the door", "enrolment", "2 members wait", func(s *seen) { s.info.Pending = 2 }, doctor.Warn, 0},
		{"a revoked release that is run", "releases", "m@2 is revoked but still running on 3 members", func(s *seen) { s.releases = append(s.releases, release("2", "two", 3, true)) }, doctor.Bad, fault.Conflict},
		{"a delisted release that a directive names", "releases", "m@2 is delisted, and nothing of its model is running on 1 member assigned to it: b", func(s *seen) {
			gone := release("2", "two", 0, true)
			gone.RevokedFor = "delisted by its publisher"
			s.releases = append(s.releases, gone)
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Models = []api.ModelStatus{{Model: "m", Target: "m@2"}} }))
		}, doctor.Bad, fault.Conflict},
		{"a delisted release that is run", "releases", "m@2 is delisted but still running on 1 member", func(s *seen) {
			gone := release("2", "two", 1, true)
			gone.RevokedFor = "delisted by its publisher"
			s.releases = append(s.releases, gone)
		}, doctor.Bad, fault.Conflict},
		{"a revoked release that left members with nothing", "releases", "m@2 is revoked, and nothing of its model is running on 1 member assigned to it: b", func(s *seen) {
			s.releases = append(s.releases, release("2", "two", 0, true))
			s.members = append(s.members, member("b", func(m *api.MemberInfo) { m.Models = []api.ModelStatus{{Model: "m", Target: "m@2"}} }))
		}, doctor.Bad, fault.Conflict},
		{"one that was published again", "releases", "no member runs a delisted or revoked one", func(s *seen) { s.releases = append(s.releases, release("0", "one", 3, true)) }, doctor.OK, 0},
	} {
		s := good
		c.edit(&s)
		r := s.examine(t)
		if got := state(r, c.check, c.words); got != c.want {
			t.Errorf("%s: %s, want %s: %+v", c.name, got, c.want, r.Checks)
		}
		if kind, bad := r.Worst(); bad != (c.want == doctor.Bad) || bad && kind != c.worst {
			t.Errorf("%s: the worst is %v %s", c.name, bad, kind)
		}
		for _, x := range r.Checks {
			if (x.State == doctor.Bad || x.State == doctor.Warn) && x.Remedy == "" {
				t.Errorf("%s: %q has no remedy", c.name, x.Text)
			}
		}
	}
}
