package fleet

import "github.com/modelfleet/modelfleet/pkg/fault"

// Phase is where a member stands with one model's offered release. Its numbers
// are on the wire (docs/formats/report.md); the machine that moves between
// phases is agent/update.
type Phase uint8

// The phases.
const (
	Idle        Phase = iota // runs what it should, or has nothing to run
	Offered                  // knows a release it should run, has not begun
	Downloading              // fetches and verifies the release's files
	Verified                 // has every byte, each verified
	Staged                   // the self-test passed; waits for its window
	Activating               // switching applications to the release
	Soaking                  // serves it and watches itself
	Healthy                  // serves it, and the soak went well
	Failed                   // gave the attempt up; Failure says why
	RolledBack               // serves what it had before
	Quarantined              // refuses a release that failed here
	Withdrawn                // the offer was taken back before the switch
)

var phaseNames = [...]string{
	"idle", "offered", "downloading", "verified", "staged", "activating",
	"soaking", "healthy", "failed", "rolled-back", "quarantined", "withdrawn",
}

// String is the phase's name.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return "unknown"
}

// MarshalText is the phase's name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a phase's name.
func (p *Phase) UnmarshalText(b []byte) error {
	for i, name := range phaseNames {
		if name == string(b) {
			*p = Phase(i)
			return nil
		}
	}
	return fault.Newf(fault.Invalid, "read phase", string(b), "there is no such phase")
}

// InProgress reports whether a member in this phase uses up budget: it was told
// to change and has not settled.
func (p Phase) InProgress() bool { return p >= Offered && p <= Soaking }

// FailureClass says who is to blame for a failed attempt. Only a release's own
// failures count against it.
type FailureClass uint8

// The failure classes. Their numbers are on the wire.
const (
	NoFailure        FailureClass = iota
	TransportFailure              // network, throttling, a slow coordinator, a closed window: tried again, never counts
	MemberFailure                 // disk full, incompatible, clock: counted apart
	ReleaseFailure                // self-test, load, crash loop, worse local health: counts against the release
)

var classNames = [...]string{"", "transport", "member", "release"}

// String is the class's name; NoFailure is empty.
func (c FailureClass) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "unknown"
}

// MarshalText is the class's name.
func (c FailureClass) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a class's name.
func (c *FailureClass) UnmarshalText(b []byte) error {
	for i, name := range classNames {
		if name == string(b) {
			*c = FailureClass(i)
			return nil
		}
	}
	return fault.Newf(fault.Invalid, "read failure class", string(b), "there is no such class")
}
