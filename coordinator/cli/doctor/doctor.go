// Package doctor looks at a fleet from the desk and says what is wrong and what to
// do about it: `modelfleet doctor`. It changes nothing.
//
//	report := doctor.Examine(ctx, doctor.Options{Client: c, Home: &home, Now: time.Now, Version: version})
//
// Each check is one line with a state; what is not as it should be comes with a
// next move. A check that needs what another one found missing is left out, so
// that one cause is told once.
package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// State is how a check came out.
type State string

// The states, best first.
const (
	OK   State = "ok"
	Skip State = "skip" // it was not looked at, and the text says why
	Warn State = "warn" // it works, and should not stay so
	Bad  State = "bad"  // it does not work, or is not to be trusted
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
	Kind   string `json:"kind,omitempty"` // of what is bad, as in pkg/fault
}

// Report is everything that was looked at, in order.
type Report struct {
	Checks []Check `json:"checks"`
	Bad    int     `json:"bad"`
	Warn   int     `json:"warn"`
}

// Options say where to look. What is nil is not looked at.
type Options struct {
	Client  *api.Client // nil: without a coordinator
	URL     string      // of the coordinator, for people
	Pinned  bool        // its TLS key is pinned
	Home    *folder.Folder
	Now     func() time.Time
	Version string // of this program
}

// Examine looks at everything there is.
func Examine(ctx context.Context, o Options) Report {
	x := &examination{Options: o}
	if o.Client != nil {
		x.coordinator(ctx)
	}
	if o.Home != nil {
		x.folder(ctx)
	}
	x.findings()
	if o.Home != nil {
		x.keys(ctx)
	}
	if x.answers {
		x.audit(ctx)
		x.pending(ctx)
		x.members(ctx)
		x.releases(ctx)
	}
	return x.report
}

// Add appends a check that the caller made itself.
func (r *Report) Add(c Check) {
	r.Checks = append(r.Checks, c)
	switch c.State {
	case Bad:
		r.Bad++
	case Warn:
		r.Warn++
	}
}

// gravity orders kinds of what is bad: the worst decides the exit code.
func gravity() []fault.Kind {
	return []fault.Kind{fault.Untrusted, fault.Denied, fault.Exhausted, fault.Conflict, fault.NotFound, fault.Invalid, fault.Transient, fault.Internal, fault.Canceled}
}

// Worst is the kind of the worst that is bad; ok is false when nothing is.
func (r Report) Worst() (kind fault.Kind, ok bool) {
	for _, k := range gravity() {
		for _, c := range r.Checks {
			if c.State == Bad && c.Kind == k.String() {
				return k, true
			}
		}
	}
	return 0, false
}

// Failed is the check of an error: bad, with its kind and its hint.
func Failed(name string, err error) Check {
	return Check{Name: name, State: Bad, Text: err.Error(), Remedy: fault.Hint(err), Kind: fault.KindOf(err).String()}
}

// examination is one run of Examine.
type examination struct {
	Options
	report Report

	answers bool // the coordinator does
	health  api.Health
	store   registry.Store
	repo    *repository.Repository
	logKey  string // that the coordinator's audit log is signed by; "" when it was not found out
}

func (x *examination) ok(name, format string, args ...any) {
	x.report.Add(Check{Name: name, State: OK, Text: fmt.Sprintf(format, args...)})
}

func (x *examination) warn(name, remedy, format string, args ...any) {
	x.report.Add(Check{Name: name, State: Warn, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (x *examination) bad(name string, kind fault.Kind, remedy, format string, args ...any) {
	x.report.Add(Check{Name: name, State: Bad, Text: fmt.Sprintf(format, args...), Remedy: remedy, Kind: kind.String()})
}

func (x *examination) failed(name string, err error) { x.report.Add(Failed(name, err)) }

// refused is what the coordinator did not answer: what this token may not ask is
// not looked at.
func (x *examination) refused(name string, err error) {
	if fault.Is(err, fault.Denied) {
		x.report.Add(Check{Name: name, State: Skip, Text: "not looked at: this token's role may not ask for it"})
		return
	}
	x.failed(name, err)
}

// findings tells of what runs out: from the bucket, or else as the coordinator sees it.
func (x *examination) findings() {
	found := x.health.Findings
	switch {
	case x.repo != nil:
		facts, err := health.Of(x.repo)
		if err != nil {
			x.failed("expiry", err)
			return
		}
		found = health.Findings(facts, x.Now())
	case !x.answers:
		return
	}
	for _, f := range found {
		text := f.Subject + " " + f.What
		if f.Severity == api.Bad {
			x.bad(f.Code, fault.Untrusted, f.Remedy, "%s", text)
		} else {
			x.warn(f.Code, f.Remedy, "%s", text)
		}
	}
	if len(found) == 0 {
		x.ok("expiry", "nothing of root, policy, publishers and device CA runs out within 90 days")
	}
}
