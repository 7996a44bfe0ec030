package fleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/strict"
)

// Spec is how a rollout should go: who takes part, in which stages, and what
// stops it. Its file form is YAML with these names; unknown names are errors.
type Spec struct {
	Population     Population   `json:"population,omitzero"`
	Stages         []Stage      `json:"stages"`
	Gates          []Gate       `json:"gates,omitempty"`         // tunes the gates; all are on without it
	Alpha          Percent      `json:"alpha,omitempty"`         // chance, over the whole rollout, that a healthy release is rolled back
	StageDeadline  Duration     `json:"stageDeadline,omitempty"` // how long a stage may stay inconclusive after its soak
	OnInconclusive Inconclusive `json:"onInconclusive,omitempty"`
	OnFail         OnFail       `json:"onFail,omitempty"`
	Windows        []Window     `json:"windows,omitempty"`
	MemberSoak     Duration     `json:"memberSoak,omitempty"` // how long a member watches itself; at most the shortest stage's soak
	Health         Health       `json:"health,omitzero"`
	BurnIn         Duration     `json:"burnIn,omitempty"`     // after a member's switch, its observations are left out of the gates for this long
	ReturnRate     int          `json:"returnRate,omitempty"` // members returned at once by a rollback; 0: all
	Retry          bool         `json:"retry,omitempty"`      // offer the release also to members that quarantined it in an earlier rollout
}

// Population says which members take part in a rollout.
type Population struct {
	Selector Selector `json:"selector,omitzero"`
}

// Stage exposes more members than the one before it and then soaks. Exactly one
// of Percent and Count may be set; neither, with a selector, means all that
// match. Stages are cumulative: a member once exposed stays so.
type Stage struct {
	Name     string   `json:"name"`
	Selector Selector `json:"selector,omitzero"` // narrows the population for this stage
	Percent  Percent  `json:"percent,omitempty"`
	Count    int      `json:"count,omitempty"`
	Soak     Duration `json:"soak"`
	Control  Percent  `json:"control,omitempty"` // share of the population kept back until the soak ends
	Budget   Budget   `json:"budget,omitzero"`
	Approval Approval `json:"approval,omitempty"` // approvals needed before the stage begins
}

// Budget bounds the members in progress (told, not yet settled) at once.
// Zero: no bound.
type Budget struct {
	InProgress int            `json:"inProgress,omitempty"`
	PerLabel   map[string]int `json:"perLabel,omitempty"` // label -> members in progress per value of it
}

// Approval is a number of approvals; its JSON form is a number or "none".
type Approval int

// UnmarshalJSON reads a number or "none".
func (a *Approval) UnmarshalJSON(b []byte) error {
	if string(b) == `"none"` {
		*a = 0
		return nil
	}
	var n int
	if err := json.Unmarshal(b, &n); err != nil || n < 0 {
		return fault.Newf(fault.Invalid, "read approval", string(b), "want a number of approvals, or none")
	}
	*a = Approval(n)
	return nil
}

// Gate tunes one gate. Which fields mean something depends on the gate.
type Gate struct {
	Gate      GateKind  `json:"gate"`
	Off       bool      `json:"off,omitempty"`
	Tolerate  Percent   `json:"tolerate,omitempty"`  // relative worsening that is let pass
	At        []string  `json:"at,omitempty"`        // latency: of p50, p95, p99
	Floor     float64   `json:"floor,omitempty"`     // drift: the least PSI that matters
	Failures  int       `json:"failures,omitempty"`  // breaker: this many members failed ...
	Of        int       `json:"of,omitempty"`        // breaker: ... among the first so many settled
	Name      string    `json:"name,omitempty"`      // metric: the application's counter or sketch
	Direction Direction `json:"direction,omitempty"` // metric: which way is worse
}

// GateKind names a gate.
type GateKind string

// The gates, with their names in specs (docs/formats/spec.md).
const (
	GateFatal   GateKind = "fatal"   // load or self-test failure, crash loop, silence after activation
	GateErrors  GateKind = "errors"  // errors and wrong answers, by member
	GateLatency GateKind = "latency" // exceedances of pre-registered edges
	GateDrift   GateKind = "drift"   // predictions, exposed against control
	GateBreaker GateKind = "breaker" // absolute: k of the first n members failed
	GateMetric  GateKind = "metric"  // anything the application reports
)

// Direction says which way a metric gets worse.
type Direction string

// The directions.
const (
	Up   Direction = "up"
	Down Direction = "down"
)

// Inconclusive says what to do with a stage without a verdict at its deadline.
type Inconclusive string

// What to do at a stage's deadline.
const (
	HoldInconclusive     Inconclusive = "hold"
	ContinueInconclusive Inconclusive = "continue"
	AbortInconclusive    Inconclusive = "abort"
)

// OnFail says what a failed gate does.
type OnFail string

// What a failed gate does.
const (
	RollbackOnFail OnFail = "rollback"
	PauseOnFail    OnFail = "pause"
)

// ParseSpec reads a spec's JSON form strictly, fills in the defaults and
// checks it. Commands turn YAML into this JSON first.
func ParseSpec(data []byte) (Spec, error) {
	var s Spec
	if err := strict.Decode(data, &s); err != nil {
		return Spec{}, fault.New(fault.Invalid, "read rollout spec", "", err).
			WithHint("see `modelfleet rollout start --help` for a whole example")
	}
	s = s.withDefaults()
	return s, s.Validate()
}

func (s Spec) withDefaults() Spec {
	if s.Alpha == 0 {
		s.Alpha = 1
	}
	if s.StageDeadline == 0 {
		s.StageDeadline = Duration(24 * time.Hour)
	}
	if s.OnInconclusive == "" {
		s.OnInconclusive = HoldInconclusive
	}
	if s.OnFail == "" {
		s.OnFail = RollbackOnFail
	}
	if s.MemberSoak == 0 && len(s.Stages) > 0 {
		s.MemberSoak = Duration(5 * time.Minute)
		for _, st := range s.Stages {
			s.MemberSoak = min(s.MemberSoak, st.Soak)
		}
	}
	if s.BurnIn == 0 {
		s.BurnIn = Duration(time.Minute)
	}
	if s.Health == (Health{}) {
		s.Health = Health{FailStreak: 20, Restarts: 3}
	}
	return s
}

// Validate says what is wrong with a spec, naming the stage or gate.
func (s Spec) Validate() error {
	bad := func(subject, format string, args ...any) *fault.Error {
		return fault.Newf(fault.Invalid, "check rollout spec", subject, format, args...)
	}
	if len(s.Stages) == 0 {
		return bad("stages", "there are none").WithHint("a rollout needs at least one stage, for example {name: all, percent: 100, soak: 1h}")
	}
	seen := map[string]bool{}
	share := Percent(0)
	for i, st := range s.Stages {
		at := fmt.Sprintf("stage %d (%s)", i+1, st.Name)
		switch {
		case st.Name == "":
			return bad(at, "it has no name")
		case seen[st.Name]:
			return bad(at, "the name is taken by an earlier stage")
		case st.Percent > 0 && st.Count > 0:
			return bad(at, "it has both percent and count")
		case st.Percent == 0 && st.Count == 0 && st.Selector.IsEmpty():
			return bad(at, "it says neither percent, count nor selector")
		case st.Count < 0 || st.Budget.InProgress < 0:
			return bad(at, "a number is negative")
		case st.Selector.IsEmpty() && st.Percent > 0 && st.Percent < share:
			return bad(at, "percent goes down from %g to %g; stages are cumulative", share, st.Percent)
		}
		for label, n := range st.Budget.PerLabel {
			if n <= 0 || label == "" {
				return bad(at, "budget per label %q is not positive", label)
			}
		}
		seen[st.Name] = true
		if st.Selector.IsEmpty() {
			share = max(share, st.Percent)
		}
	}
	for i, g := range s.Gates {
		at := fmt.Sprintf("gate %d (%s)", i+1, g.Gate)
		switch g.Gate {
		case GateFatal, GateErrors, GateDrift:
		case GateLatency:
			for _, q := range g.At {
				if !slices.Contains([]string{"p50", "p95", "p99"}, q) {
					return bad(at, "at %q is none of p50, p95, p99", q)
				}
			}
		case GateBreaker:
			if !g.Off && (g.Failures <= 0 || g.Of < g.Failures) {
				return bad(at, "want failures >= 1 and of >= failures")
			}
		case GateMetric:
			if g.Name == "" || (g.Direction != Up && g.Direction != Down) {
				return bad(at, "want a name and a direction, up or down")
			}
		default:
			return bad(at, "there is no such gate; there are fatal, errors, latency, drift, breaker and metric")
		}
	}
	for i, w := range s.Windows {
		for _, d := range w.Days {
			if !slices.Contains(weekdays(), d) {
				return bad(fmt.Sprintf("window %d (%s)", i+1, w), "day %q is none of %s", d, strings.Join(weekdays(), ", "))
			}
		}
	}
	switch {
	case s.Alpha <= 0 || s.Alpha > 50:
		return bad("alpha", "%g%% is not above 0%% and at most 50%%", float64(s.Alpha))
	case !slices.Contains([]Inconclusive{HoldInconclusive, ContinueInconclusive, AbortInconclusive}, s.OnInconclusive):
		return bad("onInconclusive", "%q is none of hold, continue, abort", s.OnInconclusive)
	case !slices.Contains([]OnFail{RollbackOnFail, PauseOnFail}, s.OnFail):
		return bad("onFail", "%q is none of rollback, pause", s.OnFail)
	case s.ReturnRate < 0:
		return bad("returnRate", "it is negative")
	}
	if last := s.Stages[len(s.Stages)-1]; !last.Selector.IsEmpty() || last.Percent != 100 {
		return bad(fmt.Sprintf("stage %d (%s)", len(s.Stages), last.Name), "the last stage does not expose the whole population, so its success would give the release to members that no stage proved").
			WithHint("end with {name: all, percent: 100, soak: 1h}; to reach part of the fleet only, narrow population.selector")
	}
	return nil
}

// Preset returns a ready spec: cautious, standard, fast, or one of AWS
// AppConfig's names (AllAtOnce, Linear50PercentEvery30Seconds,
// Canary10Percent20Minutes, Linear20PercentEvery6Minutes). As with AppConfig these
// go by time unless something speaks against the release: a stage that is
// inconclusive for want of reports goes on after as long again as it soaks.
func Preset(name string) (Spec, error) {
	minutes := func(n int) Duration { return Duration(time.Duration(n) * time.Minute) }
	var stages []Stage
	switch name {
	case "cautious":
		stages = []Stage{
			{Name: "one", Percent: 1, Soak: minutes(60)},
			{Name: "five", Percent: 5, Soak: minutes(240)},
			{Name: "quarter", Percent: 25, Soak: minutes(720)},
			{Name: "all", Percent: 100, Soak: minutes(1440), Control: 5, Approval: 1},
		}
	case "standard":
		stages = []Stage{
			{Name: "one", Percent: 1, Soak: minutes(30)},
			{Name: "ten", Percent: 10, Soak: minutes(120)},
			{Name: "half", Percent: 50, Soak: minutes(120)},
			{Name: "all", Percent: 100, Soak: minutes(360), Control: 5},
		}
	case "fast":
		stages = []Stage{
			{Name: "ten", Percent: 10, Soak: minutes(10)},
			{Name: "half", Percent: 50, Soak: minutes(10)},
			{Name: "all", Percent: 100, Soak: minutes(20), Control: 5},
		}
	case "AllAtOnce":
		stages = []Stage{{Name: "all", Percent: 100, Soak: minutes(10)}}
	case "Linear50PercentEvery30Seconds":
		half := Duration(30 * time.Second)
		stages = []Stage{{Name: "half", Percent: 50, Soak: half}, {Name: "all", Percent: 100, Soak: minutes(1)}}
	case "Canary10Percent20Minutes":
		stages = []Stage{{Name: "ten", Percent: 10, Soak: minutes(20)}, {Name: "all", Percent: 100, Soak: minutes(10)}}
	case "Linear20PercentEvery6Minutes":
		for p := 20; p <= 100; p += 20 {
			stages = append(stages, Stage{Name: fmt.Sprint(p), Percent: Percent(p), Soak: minutes(6)})
		}
	default:
		return Spec{}, fault.Newf(fault.Invalid, "read preset", name, "there is no preset of that name").
			WithHint("presets are cautious, standard, fast, AllAtOnce, Linear50PercentEvery30Seconds, Canary10Percent20Minutes and Linear20PercentEvery6Minutes")
	}
	s := Spec{Stages: stages}
	if !slices.Contains([]string{"cautious", "standard", "fast"}, name) {
		s.OnInconclusive, s.StageDeadline = ContinueInconclusive, stages[0].Soak
	}
	return s.withDefaults(), nil
}
