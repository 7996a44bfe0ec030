package rollout

import (
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Observation is what is known of one member with respect to the rollout's
// model. The zero value is a member that was never heard.
type Observation struct {
	Reachable bool               `json:"reachable,omitempty"` // reported in the last few report periods
	Rollout   fleet.RolloutID    `json:"rollout,omitempty"`   // the rollout that Phase and Failure are about
	Phase     fleet.Phase        `json:"phase"`
	Failure   fleet.FailureClass `json:"failure,omitempty"`
	// Running is the root digest the member observed itself running. It alone
	// says what a member runs.
	Running fleet.Digest `json:"running,omitzero"`
	// Quarantined: the member refuses the release, from whatever rollout.
	Quarantined bool `json:"quarantined,omitempty"`
	// Stranded: what it is to run without the rollout is a release that it refuses,
	// since its publisher does not list it now. Nothing brings it back.
	Stranded bool `json:"stranded,omitempty"`
}

// Outcome is what the gates say. The values are those of coordinator/analysis.
type Outcome string

// The outcomes.
const (
	Pass         Outcome = "pass"
	Fail         Outcome = "fail"
	Inconclusive Outcome = "inconclusive"
)

// Verdict is what the gates say of the evidence gathered so far.
type Verdict struct {
	Outcome Outcome   `json:"outcome"`
	Stage   int       `json:"stage"` // the stage whose evidence was judged; a pass counts for no other
	At      time.Time `json:"at"`    // when the evidence ends
	E       float64   `json:"e"`     // evidence against the release; 1 is none either way
	Reason  string    `json:"reason"`
	// Suspicious: inconclusive since something speaks against the release. Such
	// a stage is not continued, whatever its deadline's policy.
	Suspicious bool `json:"suspicious,omitempty"`
}

// CommandKind is what an operator may tell a rollout.
type CommandKind string

// The commands.
const (
	CommandPause    CommandKind = "pause"
	CommandResume   CommandKind = "resume"
	CommandAbort    CommandKind = "abort"
	CommandRollback CommandKind = "rollback"
	CommandApprove  CommandKind = "approve"
	CommandSkip     CommandKind = "skip"   // emergency: go to the last stage at once; takes effect with the second approver's
	CommandDisown   CommandKind = "disown" // who approved is no operator any more: it does not count
)

// Command is one thing an operator said. The caller numbers the commands of a
// rollout from 1 without gaps; Decide takes those above [Status].Commands and
// ignores the others, so that a command repeated is a command said once.
type Command struct {
	Seq    uint64      `json:"seq"`
	Kind   CommandKind `json:"kind"`
	By     string      `json:"by"`
	As     []string    `json:"as,omitempty"` // see Approval; of disown: of who is gone
	At     time.Time   `json:"at"`
	Reason string      `json:"reason,omitempty"`
	Hold   bool        `json:"hold,omitempty"` // pause: not even a failing gate rolls back
}

// Approval is one person's word. As are the identities it speaks for: the
// person's own first, then those of who made the token it came by, since they
// could have used it; empty means By.
type Approval struct {
	By string   `json:"by"`
	As []string `json:"as,omitempty"`
}

func (a Approval) person() string {
	if len(a.As) > 0 {
		return a.As[0]
	}
	return a.By
}

// speaksFor reports whether a could be the doing of the person behind b.
func (a Approval) speaksFor(b Approval) bool {
	return a.person() == b.person() || slices.Contains(a.As, b.person())
}

// Peer names another rollout of the same model.
type Peer struct {
	ID      fleet.RolloutID `json:"id"`
	Created time.Time       `json:"created"`
}

// View is what is known at one moment.
type View struct {
	// Roster is who takes part. The caller keeps it and makes a new one when
	// the enrolled members or their labels change.
	Roster *Roster `json:"-"`
	// Observed is parallel to the roster's members ([Roster.Index]). Members
	// beyond its length were never heard.
	Observed []Observation `json:"observed"`
	// Verdict is the newest of this rollout's gates; nil: none yet.
	Verdict *Verdict `json:"verdict,omitempty"`
	// Delisted says why no member may run the release any more, in one sentence: its
	// publisher took it back, for instance. "": they may.
	Delisted string `json:"delisted,omitempty"`
	// Commands by Seq ascending; those already taken may be left out.
	Commands []Command `json:"commands,omitempty"`
	// Newer is a rollout of the same model that was made after this one and
	// should take its place; nil: none. It is ignored unless it really is newer.
	Newer *Peer `json:"newer,omitempty"`
	// Older is a rollout of the same model that is not terminal yet; nil:
	// none. A Draft waits for it.
	Older *Peer `json:"older,omitempty"`
}

// Roster is the members of a rollout's population, sorted by position, with
// everything Decide needs of them worked out once. It is immutable.
type Roster struct {
	ids      []fleet.MemberID
	position []uint64
	enrolled []int64  // Unix seconds
	stages   []uint64 // bit i: matches the selector of stage i
	labels   []labelIndex
	index    map[fleet.MemberID]int
}

// labelIndex numbers the values of one label that a budget counts by.
type labelIndex struct {
	key    string
	value  []int32 // parallel to ids; -1: the member has no such label
	values map[string]int32
}

// NewRoster picks the members of the population that can run a variant of the
// release. It costs one SHA-256 a member: keep it between calls to Decide.
func NewRoster(id fleet.RolloutID, release fleet.Release, spec fleet.Spec, members []fleet.Facts) *Roster {
	type row struct {
		position uint64
		facts    *fleet.Facts
	}
	rows := make([]row, 0, len(members))
	for i := range members {
		f := &members[i]
		if _, fits := release.For(*f); fits && spec.Population.Selector.Matches(*f) {
			rows = append(rows, row{fleet.Position(id, f.ID), f})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		switch {
		case a.position < b.position:
			return -1
		case a.position > b.position:
			return 1
		case a.facts.ID < b.facts.ID:
			return -1
		case a.facts.ID > b.facts.ID:
			return 1
		}
		return 0
	})
	n := len(rows)
	r := &Roster{
		ids: make([]fleet.MemberID, n), position: make([]uint64, n), enrolled: make([]int64, n),
		stages: make([]uint64, n), index: make(map[fleet.MemberID]int, n),
	}
	for _, key := range budgetLabels(spec) {
		r.labels = append(r.labels, labelIndex{key: key, value: make([]int32, n), values: map[string]int32{}})
	}
	for i, row := range rows {
		r.ids[i], r.position[i], r.index[row.facts.ID] = row.facts.ID, row.position, i
		r.enrolled[i] = ceilUnix(row.facts.Enrolled)
		for s := range spec.Stages {
			if spec.Stages[s].Selector.Matches(*row.facts) {
				r.stages[i] |= 1 << s
			}
		}
		for l := range r.labels {
			r.labels[l].add(i, row.facts)
		}
	}
	return r
}

func (l *labelIndex) add(i int, f *fleet.Facts) {
	v, ok := f.Label(l.key)
	if !ok {
		l.value[i] = -1
		return
	}
	at, known := l.values[v]
	if !known {
		at = int32(len(l.values))
		l.values[v] = at
	}
	l.value[i] = at
}

// budgetLabels are the labels that any stage's budget counts by, sorted.
func budgetLabels(spec fleet.Spec) []string {
	var keys []string
	for _, st := range spec.Stages {
		for k := range st.Budget.PerLabel {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// ceilUnix is t in whole seconds, rounded up: comparing it with a whole second
// agrees with comparing t.
func ceilUnix(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}

// Len is the number of members in the roster.
func (r *Roster) Len() int { return len(r.ids) }

// ID is the i-th member in the order of positions.
func (r *Roster) ID(i int) fleet.MemberID { return r.ids[i] }

// Index is where a member stands in the roster.
func (r *Roster) Index(id fleet.MemberID) (int, bool) {
	i, ok := r.index[id]
	return i, ok
}
