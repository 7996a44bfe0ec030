package fleet

import (
	"cmp"
	"slices"
	"time"
)

// Directive is the whole desired state of a group: what each member should run
// now. It does not list members; each member finds itself by [Directive.Assign].
// It is the bytes of TUF target "fleet/GROUP.json"; the order of its fields and
// of Models (by name) is fixed so that the same state gives the same bytes.
type Directive struct {
	Schema   int         `json:"schema"` // 1
	Group    Group       `json:"group"`
	Sequence uint64      `json:"sequence"` // grows by one with every directive of the group
	Issued   time.Time   `json:"issued"`
	Models   []Placement `json:"models"` // sorted by Model
	// Revoked are the members that lost their identity: no other speaks to them.
	// Sorted by ID; at most [MaxRevoked].
	Revoked []RevokedMember `json:"revoked,omitempty"`
}

// RevokedMember is a member that lost its identity, stolen perhaps. It stays in
// the directive until everyone refuses its certificate by the time alone.
type RevokedMember struct {
	ID    MemberID  `json:"id"`
	Until time.Time `json:"until"` // [Grace] after its newest certificate ran out
	// Cell is the gossip cell whose key it knew, and Key the number of the key
	// that shuts it out: members of the cell that have an older one ask for it.
	Cell string `json:"cell,omitempty"`
	Key  uint64 `json:"key,omitempty"`
}

const (
	// MaxRevoked bounds the revoked members of a directive.
	MaxRevoked = 1024
	// Grace is how long members of a site put up with a neighbour's certificate
	// that has run out: it may be that it cannot reach the coordinator.
	Grace = 30 * 24 * time.Hour
)

// Bars is the directive's word against a member, if there is one.
func (d Directive) Bars(id MemberID) (RevokedMember, bool) {
	i, found := slices.BinarySearchFunc(d.Revoked, id, func(r RevokedMember, id MemberID) int { return cmp.Compare(r.ID, id) })
	if !found {
		return RevokedMember{}, false
	}
	return d.Revoked[i], true
}

// CellKey is the number of the key that members of a cell must have by now; 0:
// any will do.
func (d Directive) CellKey(cell string) uint64 {
	var n uint64
	for _, r := range d.Revoked {
		if r.Cell == cell {
			n = max(n, r.Key)
		}
	}
	return n
}

// DirectiveSchema is the schema number this code writes and reads.
const DirectiveSchema = 1

// TargetPath is the TUF target path of a group's directive.
func (g Group) TargetPath() string { return "fleet/" + string(g) + ".json" }

// PackKey is the object key of a group's trust pack.
func (g Group) PackKey() string { return "packs/" + string(g) + ".pack.zst" }

// Placement is what the members of a group should run of one model.
type Placement struct {
	Model  ModelName `json:"model"`
	Stable *Release  `json:"stable,omitempty"` // absent: members outside a rollout run nothing
	// Overrides are what rollouts over part of the fleet have settled: the first
	// whose selector chooses a member takes the place of Stable for it.
	Overrides []Override `json:"overrides,omitempty"`
	Rollout   *Exposure  `json:"rollout,omitempty"` // absent: no rollout of this model is under way
	// Failed are the releases that the gates of rollouts found failing, newest
	// first; at most [MaxFailed].
	Failed []FailedRelease `json:"failed,omitempty"`
	// WhenRevoked is what a member does whose release was revoked and that has
	// nothing else it may run.
	WhenRevoked WhenRevoked `json:"whenRevoked,omitempty"`
}

// WhenRevoked says what becomes of a release that was taken back and that
// nothing can replace.
type WhenRevoked string

// What may become of it.
const (
	// StopRevoked serves nothing. It is the default: who takes a release back says
	// that it does harm, and an application knows what to do without a model, but
	// not that the one it was given is wrong.
	StopRevoked WhenRevoked = ""
	// KeepRevoked goes on serving it, and says so, until something else may run:
	// for models whose absence does more harm than any release of them could.
	KeepRevoked WhenRevoked = "keep"
)

// Override is the stable release of part of the fleet.
type Override struct {
	Selector Selector `json:"selector"`
	Release  Release  `json:"release"`
}

// MaxOverrides bounds the overrides of one model.
const MaxOverrides = 16

// Base is what a member runs when no rollout concerns it; nil: nothing.
func (p Placement) Base(f Facts) *Release {
	for i, o := range p.Overrides {
		if o.Selector.Matches(f) {
			return &p.Overrides[i].Release
		}
	}
	return p.Stable
}

// Settled is the placement after a rollout of r over the population succeeded: r
// is what the population runs from now on, and nobody else. It does not change p.
func (p Placement) Settled(population Selector, r Release) Placement {
	if population.IsEmpty() {
		p.Stable, p.Overrides = &r, nil
		return p
	}
	kept := []Override{{Selector: population, Release: r}}
	for _, o := range p.Overrides {
		if o.Selector.String() != population.String() {
			kept = append(kept, o)
		}
	}
	p.Overrides = kept
	return p
}

// Releases are all that the placement names, without order.
func (p Placement) Releases() []Release {
	var all []Release
	if p.Stable != nil {
		all = append(all, *p.Stable)
	}
	for _, o := range p.Overrides {
		all = append(all, o.Release)
	}
	if p.Rollout != nil {
		all = append(all, p.Rollout.Release)
	}
	return all
}

// Exposure is the part of a rollout that members act on.
type Exposure struct {
	ID         RolloutID `json:"id"`
	Release    Release   `json:"release"`
	Population Selector  `json:"population"` // who takes part: exposed or control
	Rules      []Rule    `json:"rules"`      // exposed when any of them covers the member
	AsOf       time.Time `json:"asOf"`       // members enrolled later get stable
	NotBefore  time.Time `json:"notBefore,omitzero"`
	Windows    []Window  `json:"windows,omitempty"` // when members may activate; empty: always
	Soak       Duration  `json:"soak"`              // how long a member watches itself before it calls a release healthy
	Health     Health    `json:"health"`
	// Retry offers the release also to members that quarantined it in an earlier
	// rollout: an operator said so.
	Retry bool `json:"retry,omitempty"`
}

// Rule exposes the members that match the selector and whose position in the
// rollout is below the bound.
type Rule struct {
	Selector Selector `json:"selector"`
	Bound    Bound    `json:"bound"`
}

// Health is when a member, by itself, gives a release up while it soaks. Zero
// values switch a limit off.
type Health struct {
	// FailStreak is how many observations in a row may fail before the release
	// is taken for broken.
	FailStreak int `json:"failStreak,omitempty"`
	// Restarts is how often the application may lose the model (crash) within the soak.
	Restarts int `json:"restarts,omitempty"`
}

// Arm says on which side of a comparison a member stands.
type Arm uint8

// The arms. Their numbers are on the wire (docs/formats/report.md).
const (
	NoArm   Arm = iota // no rollout of the model concerns the member
	Exposed            // runs, or should run, the rollout's release
	Control            // of the same population, stays on stable
)

// String is the arm's name.
func (a Arm) String() string {
	switch a {
	case Exposed:
		return "exposed"
	case Control:
		return "control"
	default:
		return "none"
	}
}

// Assignment is what one member should run of one model, and why.
type Assignment struct {
	Model   ModelName
	Release *Release  // nil: nothing
	Variant Variant   // zero when Release is nil
	Rollout RolloutID // the rollout that concerns the member, or ""
	Arm     Arm
	// Fallback is the release to return to when Release fails here; nil when
	// there is none. Its variant for the member is FallbackVariant.
	Fallback        *Release
	FallbackVariant Variant
	Exposure        *Exposure // set when Arm is not NoArm
	Reason          string    // one sentence for people
}

// Assign derives what a member should run from a directive. It is the only
// place that knows how exposure is computed: members and the coordinator call it.
func (p Placement) Assign(f Facts) Assignment {
	a := Assignment{Model: p.Model}
	if base := p.Base(f); base != nil {
		if v, ok := base.For(f); ok {
			a.Release, a.Variant = base, v
			a.Reason = "stable is " + base.Ref()
		} else {
			a.Reason = "no variant of " + base.Ref() + " is for class " + f.Class()
		}
	} else {
		a.Reason = "the model has no stable release yet"
	}
	x := p.Rollout
	if x == nil {
		return a
	}
	v, fits := x.Release.For(f)
	switch {
	case !x.Population.Matches(f):
		a.Reason += "; outside the population of rollout " + string(x.ID)
		return a
	case f.Enrolled.After(x.AsOf):
		a.Reason += "; enrolled after rollout " + string(x.ID) + " began"
		return a
	case !fits:
		a.Reason += "; no variant of " + x.Release.Ref() + " is for class " + f.Class()
		return a
	}
	a.Rollout, a.Exposure = x.ID, x
	if !x.Covers(f) {
		a.Arm = Control
		a.Reason += "; control of rollout " + string(x.ID)
		return a
	}
	a.Arm = Exposed
	a.Fallback, a.FallbackVariant = a.Release, a.Variant
	a.Release, a.Variant = &x.Release, v
	a.Reason = "exposed to " + x.Release.Ref() + " by rollout " + string(x.ID)
	return a
}

// Covers reports whether any rule exposes the member. It does not look at the
// population or AsOf; [Placement.Assign] does.
func (x *Exposure) Covers(f Facts) bool {
	p := Position(x.ID, f.ID)
	for _, r := range x.Rules {
		if r.Bound.Covers(p) && r.Selector.Matches(f) {
			return true
		}
	}
	return false
}

// Placement returns the directive's part about a model.
func (d Directive) Placement(m ModelName) (Placement, bool) {
	for _, p := range d.Models {
		if p.Model == m {
			return p, true
		}
	}
	return Placement{}, false
}
