// Package health says what a person should know about a fleet's keys and
// metadata before it hurts: what runs out and when, what was not signed anew when
// it was due, and where one stolen or lost key would be worth more than it
// should. It is pure: facts and a time give findings, the gravest first, each
// with the next move.
//
//	findings := health.Findings(health.Of(repo), now)
//
// The coordinator shows them at GET /v1/health, in its metrics and on the
// dashboard; `modelfleet doctor` and `modelfleet key status` find them out from
// the bucket alone.
package health

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// The codes of findings.
const (
	CodeExpiry    = "expiry"     // runs out, or ran out
	CodeOverdue   = "overdue"    // the coordinator or the heartbeat should have signed it anew
	CodeSigners   = "signers"    // too few people hold root
	CodeSharedKey = "shared-key" // one key speaks for roles that are to check each other
	CodeSignIn    = "sign-in"    // who may do what is not what the file says
	CodeClock     = "clock"      // this machine's clock and the coordinator's differ
)

// Facts are what findings are derived from.
type Facts struct {
	Roles        []repository.Standing
	Certificates []Certificate
	// Skew is how far the other clock is ahead of this one; 0 when no other was
	// asked.
	Skew time.Duration
	// Against is whose the other clock is; default "the coordinator's".
	Against string
	// SignIn is why the coordinator's -oidc file is not taken up; nil when it is, or
	// there is none.
	SignIn error
}

// Certificate is one that members are judged by.
type Certificate struct {
	Name      string // "device CA"
	NotBefore time.Time
	NotAfter  time.Time
}

// DeviceCA is the name of the certificates that members' identities hang from.
const DeviceCA = "device CA"

// Of reads the facts out of a repository.
func Of(r *repository.Repository) (Facts, error) {
	f := Facts{Roles: r.Standings()}
	for data := r.DeviceCA(); len(data) > 0; {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return f, fault.New(fault.Invalid, "read device CA", trust.PathDeviceCA, err)
		}
		f.Certificates = append(f.Certificates, Certificate{Name: DeviceCA, NotBefore: c.NotBefore, NotAfter: c.NotAfter})
		data = rest
	}
	return f, nil
}

// Findings is what a person should know at now, gravest first.
func Findings(f Facts, now time.Time) []api.Finding {
	var out []api.Finding
	for _, s := range f.Roles {
		if s.Version == 0 {
			continue
		}
		if online(s.Role) {
			out = append(out, overdue(s, now)...)
			out = append(out, ahead(s, now)...)
		} else {
			out = append(out, expiring(Subject(s.Role), s.Expires, s.Life, now, renewal(s.Role))...)
		}
	}
	out = append(out, certificates(f.Certificates, now)...)
	out = append(out, signers(f.Roles)...)
	out = append(out, shared(f.Roles)...)
	out = append(out, signIn(f.SignIn)...)
	out = append(out, clock(f.Skew, cmp.Or(f.Against, coordinators))...)
	slices.SortStableFunc(out, func(a, b api.Finding) int {
		return cmp.Or(cmp.Compare(b.Severity.Rank(), a.Severity.Rank()), soonest(a.When, b.When), cmp.Compare(a.Subject, b.Subject))
	})
	return out
}

// Expiries is when each role and certificate runs out, soonest first.
func Expiries(f Facts) []api.Expiry {
	var out []api.Expiry
	for _, s := range f.Roles {
		if s.Version > 0 {
			out = append(out, api.Expiry{Subject: Subject(s.Role), Expires: s.Expires})
		}
	}
	for _, c := range f.Certificates {
		out = append(out, api.Expiry{Subject: c.Name, Expires: c.NotAfter})
	}
	slices.SortStableFunc(out, func(a, b api.Expiry) int { return a.Expires.Compare(b.Expires) })
	return out
}

// Pressing is the one finding that people should hear of whatever they do: the
// gravest of those about what only people can sign anew.
func Pressing(fs []api.Finding) (api.Finding, bool) {
	i := slices.IndexFunc(fs, func(f api.Finding) bool { return f.Code == CodeExpiry && !online(f.Subject) })
	if i < 0 {
		return api.Finding{}, false
	}
	return fs[i], true
}

// Subject is what people call a role: the policy is TUF's top "targets" role.
func Subject(role string) string {
	if role == "targets" {
		return "policy"
	}
	return role
}

// online reports whether a machine signs the role anew every few hours or days.
func online(role string) bool {
	return role == trust.RoleFleet || role == "snapshot" || role == "timestamp"
}

// soonest puts the earlier time first, and no time last.
func soonest(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}

const (
	day      = 24 * time.Hour
	yearly   = 365 * day
	longAway = 90 * day
)

// severity is how urgent an expiry is. For what lives a year or more it is asked
// for at 90, 60 and 30 days; what lives shorter is warned of in proportion.
func severity(left, life time.Duration) api.Severity {
	if life <= 0 || life > yearly {
		life = yearly
	}
	scaled := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) / float64(yearly) * float64(life))
	}
	switch {
	case left <= 0:
		return api.Bad
	case left <= scaled(30*day):
		return api.Urgent
	case left <= scaled(60*day):
		return api.Warning
	case left <= scaled(longAway):
		return api.Notice
	}
	return ""
}

// expiring warns of what people must sign anew.
func expiring(subject string, expires time.Time, life time.Duration, now time.Time, remedy string) []api.Finding {
	s := severity(expires.Sub(now), life)
	if s == "" {
		return nil
	}
	return []api.Finding{{Severity: s, Code: CodeExpiry, Subject: subject, What: runsOut(expires, now), When: expires, Remedy: remedy}}
}

// runsOut is "expires in 27 days, on 2026-12-21".
func runsOut(expires, now time.Time) string {
	on := expires.UTC().Format(time.DateOnly)
	if left := expires.Sub(now); left > 0 {
		return fmt.Sprintf("expires in %s, on %s", span(left), on)
	}
	return fmt.Sprintf("expired %s ago, on %s", span(now.Sub(expires)), on)
}

// span is a duration in the unit that people would use.
func span(d time.Duration) string {
	unit, n := "minute", int(d/time.Minute)
	switch {
	case d >= 2*day:
		unit, n = "day", int(d/day)
	case d >= 2*time.Hour:
		unit, n = "hour", int(d/time.Hour)
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// renewal is how people renew what people sign.
func renewal(role string) string {
	switch role {
	case "root":
		return "sign it anew with the root keys: `modelfleet key renew root`"
	case "targets":
		return "sign it anew with the policy's key: `modelfleet key renew policy`"
	}
	return fmt.Sprintf("publish something, or sign it anew: `modelfleet releases renew --team %s --dir FOLDER`", strings.TrimPrefix(role, "pub-"))
}

// overdue finds what a machine should have signed anew: that is due when two
// fifths of its life are over. Half over is late, three quarters is an alarm.
func overdue(s repository.Standing, now time.Time) []api.Finding {
	left := s.Expires.Sub(now)
	f := api.Finding{Code: CodeOverdue, Subject: s.Role, When: s.Expires, Remedy: "is the coordinator running, and can it write to the bucket? see its log and GET /readyz"}
	if s.Role == "timestamp" {
		f.Remedy = "is the coordinator, or the heartbeat that holds the timestamp's key, running, and can it write to the bucket?"
	}
	switch {
	case left <= 0:
		f.Severity, f.Code = api.Bad, CodeExpiry
		f.What = runsOut(s.Expires, now) + ": members hold what they have"
	case left < s.Life/4:
		f.Severity = api.Urgent
	case left < s.Life/2:
		f.Severity = api.Warning
	default:
		return nil
	}
	if f.What == "" {
		f.What = fmt.Sprintf("was not signed anew when it was due; members hold what they have in %s", span(left))
	}
	return []api.Finding{f}
}

// ahead finds a timestamp that was signed by a clock ahead of this one: members that
// saw it take everything signed at the right time for stale.
func ahead(s repository.Standing, now time.Time) []api.Finding {
	by := s.Issued.Sub(now)
	if by <= repository.ClockSlack {
		return nil
	}
	return []api.Finding{{
		Severity: api.Bad, Code: CodeClock, Subject: s.Role,
		What:   fmt.Sprintf("was signed at %s, %s ahead of this machine's clock: members that saw it go by that time", s.Issued.UTC().Format(time.RFC3339), span(by)),
		Remedy: "mend the clock that is wrong; if the one that signed was ahead: `modelfleet key rotate timestamp`",
	}}
}

// certificates warns of the device CA: as long as one certificate is good for
// long, members renew under it.
func certificates(cs []Certificate, now time.Time) []api.Finding {
	var best Certificate
	for _, c := range cs {
		if !c.NotBefore.After(now) && c.NotAfter.After(best.NotAfter) {
			best = c
		}
	}
	if best.NotAfter.IsZero() {
		return nil
	}
	return expiring(best.Name, best.NotAfter, 0, now, "make the next one before members can no longer renew: `modelfleet key rotate device-ca`")
}

// signers says what a root that one person can sign, or lose, is worth.
func signers(roles []repository.Standing) []api.Finding {
	for _, s := range roles {
		if s.Role != "root" {
			continue
		}
		f := api.Finding{Severity: api.Advice, Code: CodeSigners, Subject: "root"}
		switch n := len(s.Keys); {
		case s.Threshold == 1 && n >= 3:
			f.What = fmt.Sprintf("is signed by 1 of %d keys: whoever steals one has the fleet", n)
			f.Remedy = fmt.Sprintf("have 2 of the %d sign: `modelfleet key rotate root --threshold 2`", n)
		case s.Threshold == 1:
			f.Remedy = "share it among three people, any two of whom sign: `modelfleet key add root " + strings.Repeat("KEY.pub ", 3-n) + "--threshold 2`"
			f.What = fmt.Sprintf("is signed by 1 of %d keys: whoever steals one has the fleet", n)
		case n == s.Threshold:
			f.What = fmt.Sprintf("needs all of its %d keys: if one is lost, so is the fleet", n)
			f.Remedy = fmt.Sprintf("add another, so that %d of %d sign: `modelfleet key add root KEY.pub`", n, n+1)
		default:
			return nil
		}
		return []api.Finding{f}
	}
	return nil
}

// shared finds keys that hold roles which are there to check each other.
func shared(roles []repository.Standing) []api.Finding {
	holders := map[string][]string{}
	var keys []string
	for _, s := range roles {
		for _, id := range s.Keys {
			if holders[id] == nil {
				keys = append(keys, id)
			}
			holders[id] = append(holders[id], s.Role)
		}
	}
	var out []api.Finding
	for _, id := range keys {
		held := holders[id]
		slices.Sort(held)
		if severity := conflict(held); severity != "" {
			names := make([]string, len(held))
			for i, r := range held {
				names[i] = Subject(r)
			}
			out = append(out, api.Finding{
				Severity: severity, Code: CodeSharedKey, Subject: strings.Join(names, " and "),
				What:   fmt.Sprintf("have the same key %s: stealing it is worth all of them", id[:min(12, len(id))]),
				Remedy: "give each its own: `modelfleet key rotate ROLE`",
			})
		}
	}
	return out
}

// conflict judges the roles that one key holds. Offline keys may not be online;
// the publisher's and the coordinator's are the two that must agree. Root and
// policy may be one, and so may fleet and snapshot.
func conflict(held []string) api.Severity {
	var offline, machine, fleet, teams int
	timestamp := false
	for _, r := range held {
		switch {
		case r == "root" || r == "targets":
			offline++
		case strings.HasPrefix(r, "pub-"):
			teams++
		case r == "timestamp":
			timestamp = true
			machine++
		default:
			machine++
			fleet++
		}
	}
	switch {
	case offline > 0 && machine+teams > 0, teams > 0 && machine > 0:
		return api.Bad
	case teams > 1:
		return api.Warning
	case timestamp && fleet > 0:
		return api.Advice
	}
	return ""
}

// coordinators is whose the other clock is unless facts say otherwise.
const coordinators = "the coordinator's"

// clock judges the difference of two clocks: members move theirs when it is five
// minutes off.
func clock(skew time.Duration, other string) []api.Finding {
	f := api.Finding{
		Severity: api.Warning, Code: CodeClock, Subject: "clock", What: fmt.Sprintf("is %s behind %s", span(skew), other),
		Remedy: "set the clocks: `timedatectl` shows whether a time server is used",
	}
	if skew < 0 {
		f.What = fmt.Sprintf("is %s ahead of %s", span(-skew), other)
	}
	if other != coordinators {
		f.Subject = "the coordinator's clock"
	}
	switch {
	case skew.Abs() >= 5*time.Minute:
		f.Severity = api.Bad
	case skew.Abs() < time.Minute:
		return nil
	}
	return []api.Finding{f}
}

// signIn is about the roles of people who sign in.
func signIn(err error) []api.Finding {
	if err == nil {
		return nil
	}
	return []api.Finding{{
		Severity: api.Urgent, Code: CodeSignIn, Subject: "-oidc file", What: "is not taken up, the roles before it are in force: " + err.Error(),
		Remedy: fault.Hint(err),
	}}
}
