package analysis

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Evidence is the exact input of one evaluation: cumulative counters of every
// member that matters, as they stood at At. It is JSON; storing it with the
// verdict lets anyone evaluate again.
type Evidence struct {
	Stage int       `json:"stage"` // the stage the rollout is in
	At    time.Time `json:"at"`    // watermark: everything received until then is in it
	Told  int       `json:"told"`  // members the directive exposes
	// Soaked is when the stage's soak began; zero: not yet. The looks follow it,
	// and no stage passes before.
	Soaked time.Time `json:"soaked,omitzero"`
	// Members sorted by ID: the exposed members that began to try the release
	// (its self-test, its activation or later), and the control. Those told but
	// not there yet are left out, and so are functions that are silent: it is
	// their nature to be frozen.
	Members []Member `json:"members"`
}

// Member is one member's counters.
type Member struct {
	ID      fleet.MemberID `json:"id"`
	Arm     fleet.Arm      `json:"arm"`               // Exposed or Control
	Stratum string         `json:"stratum,omitempty"` // members are compared within it, for example the hardware class
	// Since is when the member began to count: its activation of the release,
	// or, in the control, its first report after the rollout began.
	Since time.Time `json:"since"`
	Seen  time.Time `json:"seen,omitzero"` // its newest report
	// Failed: the release failed on it (self-test, load, crash loop, watchdog;
	// failure class release), and when. A control member's stable release can
	// fail as well. Transport and member failures are never given here.
	Failed   bool      `json:"failed,omitempty"`
	FailedAt time.Time `json:"failedAt,omitzero"`
	// Settled is when it became healthy or failed; zero: not yet. The breaker
	// takes exposed members in this order.
	Settled time.Time `json:"settled,omitzero"`
	Alarm   bool      `json:"alarm,omitempty"` // it raised its self-alarm since Since
	// Pre is what it counted under the release it ran before Since, as far
	// back as is known; Post what it counted since Since plus the burn-in. A
	// control member that becomes exposed counts Post from zero again.
	Pre  Counters `json:"pre,omitzero"`
	Post Counters `json:"post,omitzero"`
}

// Counters are cumulative. Only requests started count, whatever became of
// them, and no retries: exposure must not depend on the outcome.
type Counters struct {
	Windows  uint64    `json:"windows,omitempty"` // windows with at least one request
	Errored  uint64    `json:"errored,omitempty"` // of them with at least one error
	Requests uint64    `json:"requests,omitempty"`
	Errors   uint64    `json:"errors,omitempty"`
	Slow     [3]uint64 `json:"slow,omitzero"` // requests slower than the edges tau50, tau95, tau99
	Right    uint64    `json:"right,omitempty"`
	Wrong    uint64    `json:"wrong,omitempty"`
	Bins     []uint64  `json:"bins,omitempty"`    // predictions by reference bin
	Metrics  []Metric  `json:"metrics,omitempty"` // what the application reports, sorted by name
}

// Metric is one of the application's counters: Sum over N occasions.
type Metric struct {
	Name string  `json:"name"`
	Sum  float64 `json:"sum"`
	N    uint64  `json:"n"`
}

// Outcome is what a gate or all gates together say.
type Outcome string

// The outcomes.
const (
	Pass         Outcome = "pass"
	Fail         Outcome = "fail"
	Inconclusive Outcome = "inconclusive"
)

// Verdict is what the gates say of the evidence, with numbers.
type Verdict struct {
	Outcome Outcome   `json:"outcome"`
	Stage   int       `json:"stage"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason"` // one sentence for people
	E       float64   `json:"e"`      // all gates' evidence against the release; fails at Threshold
	// Threshold is 1/alpha.
	Threshold float64 `json:"threshold"`
	// Suspicious: a gate is inconclusive since something speaks against the
	// release, and not for want of data.
	Suspicious bool   `json:"suspicious,omitempty"`
	Gates      []Gate `json:"gates"`
	Exposed    Arm    `json:"exposed"`
	Control    Arm    `json:"control"`
	// Labelled compares right and wrong predictions; nil: none were labelled.
	Labelled *Comparison `json:"labelled,omitempty"`
}

// Gate is one gate's part in a verdict.
type Gate struct {
	Gate    fleet.GateKind `json:"gate"`
	Name    string         `json:"name,omitempty"` // of a metric gate
	Outcome Outcome        `json:"outcome"`
	Reason  string         `json:"reason"`
	// Suspicious: it is inconclusive since something speaks against the release.
	Suspicious bool    `json:"suspicious,omitempty"`
	E          float64 `json:"e"`     // evidence against the release, before weighting
	PassE      float64 `json:"passE"` // evidence that it is not worse than tolerated; passes at 1/beta
	Weight     float64 `json:"weight"`
}

// Arm sums up one side.
type Arm struct {
	Members  int    `json:"members"`
	Seen     int    `json:"seen"` // heard lately
	Failed   int    `json:"failed"`
	Silent   int    `json:"silent"`
	Alarms   int    `json:"alarms"`
	Windows  uint64 `json:"windows"`
	Errored  uint64 `json:"errored"`
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"`
	Right    uint64 `json:"right"`
	Wrong    uint64 `json:"wrong"`
}

// Relation says how two releases compare.
type Relation string

// The relations.
const (
	Better      Relation = "BETTER"
	Worse       Relation = "WORSE"
	NonInferior Relation = "NON-INFERIOR"
	Undecided   Relation = "UNDECIDED"
)

// Comparison compares the share of wrong predictions, by member.
type Comparison struct {
	Relation Relation `json:"relation"`
	Exposed  float64  `json:"exposed"` // mean share of wrong predictions, of members
	Control  float64  `json:"control"`
	// Difference is the change of the exposed members' share against their own
	// past, less that of the control; below zero is better. It lies between
	// Low and High at level 1-alpha, however often one looks.
	Difference float64 `json:"difference"`
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
}
