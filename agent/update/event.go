package update

import (
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of event.
const (
	Tick         EventKind = iota // time passed
	Assigned                      // a verified directive says what to run: Offer and Terms
	Fetched                       // every byte of the release is on disk, verified
	FetchFailed                   // it is not, and Failure says why
	ProbePassed                   // the self-test passed
	ProbeFailed                   // it did not, and Failure says why
	Switched                      // applications are given the new release
	SwitchFailed                  // they are not, and Failure says why
	Sick                          // the running release, Root, misbehaves while it soaks; Failure says how
	Revoked                       // no member may run the release with Bundle any more; Failure says why
	Lifted                        // an operator lifts the quarantine of Root
	Restarted                     // the agent came up again; what was in flight is lost
	Damaged                       // files of the release with Bundle are not what they were: the disk damaged them
	Mended                        // they are again
)

// String is the event's name.
func (k EventKind) String() string {
	names := [...]string{
		"tick", "assigned", "fetched", "fetch-failed", "probe-passed", "probe-failed",
		"switched", "switch-failed", "sick", "revoked", "lifted", "restarted", "damaged", "mended",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is one thing that happened, with its time. Which fields mean something
// depends on Kind.
type Event struct {
	Kind    EventKind
	At      time.Time    // in the device's own time zone, for windows
	Key     string       // of the effect that this answers
	Offer   Offer        // Assigned; zero: run nothing
	Stable  Offer        // Assigned; what to run when Offer is refused here
	Terms   Terms        // Assigned
	Failed  []GateFailed // Assigned; the releases that rollouts' gates found failing
	Failure Failure      // FetchFailed, ProbeFailed, SwitchFailed, Sick, Revoked
	Root    fleet.Digest // Sick, Lifted
	Bundle  fleet.Digest // Revoked, Damaged, Mended
	Keep    bool         // Revoked: what runs goes on until something else may
	// Current is the bundle digest of the release that applications are given,
	// read from the disk just now; it is looked at when Seen is set.
	Current fleet.Digest // Tick, Restarted
	Seen    bool
	Boot    string  // Restarted: the device's boot id
	Jitter  float64 // FetchFailed, ProbeFailed, SwitchFailed: drawn from [0, 1), spreads retries
}

// GateFailed is a release that the gates of a rollout found failing, somewhere
// in the fleet.
type GateFailed struct {
	Root    fleet.Digest
	Rollout fleet.RolloutID
	Text    string // why, for people
}

// EffectKind says what to do.
type EffectKind uint8

// The kinds of effect.
const (
	Fetch  EffectKind = iota // bring every byte of Offer to the disk, verified; answers Fetched or FetchFailed
	Cancel                   // stop whatever was begun under Key; answers nothing
	Probe                    // test Offer before it is served; answers ProbePassed or ProbeFailed
	Switch                   // give applications Offer, or nothing when it is zero; answers Switched or SwitchFailed
	Keep                     // files of all releases of the model may go, but Bundles and what applications are given
	Mend                     // put the damaged files of Offer right where they are; answers Mended, or nothing
)

// String is the effect's name.
func (k EffectKind) String() string {
	names := [...]string{"fetch", "cancel", "probe", "switch", "keep", "mend"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Effect is one thing to do. Doing it twice does what doing it once does; the
// answer carries its Key.
type Effect struct {
	Kind    EffectKind
	Key     string
	Model   fleet.ModelName
	Offer   Offer
	Bundles []fleet.Digest // Keep
}

// String is the effect for logs and test scripts.
func (e Effect) String() string {
	switch e.Kind {
	case Cancel:
		return fmt.Sprintf("cancel %s", e.Key)
	case Keep:
		s := "keep"
		for _, r := range e.Bundles {
			s += " " + r.Short()
		}
		return s
	}
	what := e.Offer.Ref
	if e.Offer.IsZero() {
		what = "nothing"
	}
	return fmt.Sprintf("%s %s (%s)", e.Kind, what, e.Key)
}
