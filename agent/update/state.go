package update

import (
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// State is everything the device remembers about one model. It is persisted as
// JSON before any effect that follows from it is carried out.
type State struct {
	Model fleet.ModelName `json:"model"`
	Phase fleet.Phase     `json:"phase"`
	Since time.Time       `json:"since,omitzero"` // when it entered the phase
	Why   string          `json:"why,omitempty"`  // why it is in the phase, for people

	Want    Offer `json:"want,omitzero"`    // what the newest directive says it should run; zero: nothing
	Stable  Offer `json:"stable,omitzero"`  // what it should run instead when Want is refused here
	Terms   Terms `json:"terms,omitzero"`   // on what terms
	Target  Offer `json:"target,omitzero"`  // the release the attempt under way is about
	Running Held  `json:"running,omitzero"` // what applications are given
	// Fallback is the good release kept on disk beside Running: the way back. It is
	// one that ran here before Running, or what the directive says besides.
	Fallback Held       `json:"fallback,omitzero"`
	Past     fleet.Past `json:"past,omitempty"` // what ran here before Running

	Attempt uint64    `json:"attempt"`           // makes the keys of effects unique
	Tries   int       `json:"tries,omitempty"`   // failed tries of this offer, for backing off
	RetryAt time.Time `json:"retryAt,omitzero"`  // not before this
	SoakEnd time.Time `json:"soakEnd,omitzero"`  // when Soaking becomes Healthy
	Return  bool      `json:"return,omitempty"`  // Activating goes back to a release that was good here
	Leaving bool      `json:"leaving,omitempty"` // Failed is giving Running up; a switch is in flight
	Boot    string    `json:"boot,omitempty"`    // the device's boot id when last started
	Boots   int       `json:"boots,omitempty"`   // boots of the device during this soak

	Failure     Failure      `json:"failure,omitzero"` // of the newest attempt; kept until the next offer
	Quarantined []Quarantine `json:"quarantined,omitempty"`
}

// Offer is one release in the form that fits this device.
type Offer struct {
	Ref     string       `json:"ref"`    // "detector@1.5.0"
	Root    fleet.Digest `json:"root"`   // OMS root digest: the release's identity here
	Bundle  fleet.Digest `json:"bundle"` // SHA-256 of the OMS bundle
	Path    string       `json:"path"`   // the bundle's TUF target path and object key
	Size    int64        `json:"size"`   // bytes of all files
	Counter uint64       `json:"counter,omitempty"`
}

// IsZero reports whether the offer is of nothing.
func (o Offer) IsZero() bool { return o.Bundle.IsZero() }

// Terms are the circumstances of an offer: the rollout it belongs to and the
// conditions for activating and keeping it.
type Terms struct {
	Rollout   fleet.RolloutID `json:"rollout,omitempty"`
	Arm       fleet.Arm       `json:"arm,omitempty"`
	NotBefore time.Time       `json:"notBefore,omitzero"` // no activation before this
	Windows   []fleet.Window  `json:"windows,omitempty"`  // when it may activate; a return ignores them
	Soak      time.Duration   `json:"soak,omitempty"`     // how long it watches itself after the switch
	Health    fleet.Health    `json:"health,omitzero"`    // what it does not put up with meanwhile
	Retry     time.Duration   `json:"retry,omitempty"`    // longest pause before it tries again; 0: 10 min
	Sequence  uint64          `json:"sequence,omitempty"` // of the directive that said so
	Reason    string          `json:"reason,omitempty"`   // the assignment's, for people
	Lifts     bool            `json:"lifts,omitempty"`    // the offer lifts a quarantine that comes from another rollout
}

// Held is a release whose verified files are on this device.
type Held struct {
	Offer
	Good    bool      `json:"good,omitempty"`    // it soaked here and stayed healthy
	Damaged bool      `json:"damaged,omitempty"` // the disk damaged files of it; they are being put right
	Mended  time.Time `json:"mended,omitzero"`   // when that was done last: what was read before may be wrong
	Kept    bool      `json:"kept,omitempty"`    // it was revoked, and serves until something else may run
}

// Failure says why an attempt was given up.
type Failure struct {
	Class fleet.FailureClass `json:"class"`
	Code  string             `json:"code"` // short and constant: "self-test", "disk-full"
	Text  string             `json:"text"` // with the numbers, for people
	Root  fleet.Digest       `json:"root,omitzero"`
	At    time.Time          `json:"at,omitzero"`
	Since time.Time          `json:"since,omitzero"` // when the first of the tries failed that came to nothing since
	// Rollout is the one it failed in; "": none.
	Rollout fleet.RolloutID `json:"rollout,omitempty"`
}

// Quarantine is the device's refusal of a release that failed on it, or that it
// had when the gates of a rollout failed it.
type Quarantine struct {
	Root    fleet.Digest    `json:"root"`
	Ref     string          `json:"ref"`
	Code    string          `json:"code"`
	Text    string          `json:"text"`
	At      time.Time       `json:"at"`
	Rollout fleet.RolloutID `json:"rollout,omitempty"` // the one it failed in; "": none
}

// IsQuarantined reports whether the release with that root failed here before.
func (s State) IsQuarantined(root fleet.Digest) bool {
	_, bad := s.quarantine(root)
	return bad
}

func (s State) quarantine(root fleet.Digest) (Quarantine, bool) {
	i := slices.IndexFunc(s.Quarantined, func(q Quarantine) bool { return q.Root == root })
	if i < 0 {
		return Quarantine{}, false
	}
	return s.Quarantined[i], true
}

// Aim is what the device tries to run: Want, or Stable when Want failed here.
func (s State) Aim() Offer {
	if s.IsQuarantined(s.Want.Root) && !s.Stable.IsZero() {
		return s.Stable
	}
	return s.Want
}

// Attempting reports whether an attempt to bring in Target is under way before
// its switch.
func (s State) Attempting() bool { return s.Phase >= fleet.Offered && s.Phase <= fleet.Staged }

// Keep is the sorted set of bundle digests whose files must stay on disk.
func (s State) Keep() []fleet.Digest {
	var keep []fleet.Digest
	add := func(d fleet.Digest) {
		if !d.IsZero() && !slices.Contains(keep, d) {
			keep = append(keep, d)
		}
	}
	add(s.Running.Bundle)
	add(s.Fallback.Bundle)
	if s.Attempting() || s.Phase == fleet.Activating || s.waits() {
		add(s.Target.Bundle)
	}
	slices.SortFunc(keep, func(a, b fleet.Digest) int { return slices.Compare(a[:], b[:]) })
	return keep
}

// Whole is the bundle digests of the releases whose verified files are on this
// device, and matter.
func (s State) Whole() []fleet.Digest {
	all := []fleet.Digest{s.Running.Bundle, s.Fallback.Bundle}
	if s.Phase >= fleet.Verified && s.Phase <= fleet.Activating {
		all = append(all, s.Target.Bundle)
	}
	return slices.DeleteFunc(all, fleet.Digest.IsZero)
}

// waits reports whether a failed attempt will be tried again by itself.
func (s State) waits() bool { return s.Phase == fleet.Failed && !s.Leaving }

// Next is when Step wants its next [Tick]; zero when only an event can move it.
func (s State) Next() time.Time {
	switch s.Phase {
	case fleet.Offered:
		return s.RetryAt
	case fleet.Failed:
		if s.Leaving {
			return later(s.Since.Add(Deadline(s.Phase)), s.RetryAt)
		}
		return s.RetryAt
	case fleet.Staged:
		// Windows are checked each minute; it is a comparison of two numbers.
		return later(s.Since.Add(time.Minute), s.Terms.NotBefore)
	case fleet.Soaking:
		return s.SoakEnd
	case fleet.Downloading, fleet.Verified, fleet.Activating:
		return later(s.Since.Add(Deadline(s.Phase)), s.RetryAt)
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (s State) clone() State {
	s.Quarantined = slices.Clone(s.Quarantined)
	s.Past = slices.Clone(s.Past)
	s.Terms.Windows = slices.Clone(s.Terms.Windows)
	return s
}
