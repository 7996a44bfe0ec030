package telemetry

import (
	"crypto"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Limits of a row. A row with its signature fits one gossip packet.
const (
	MaxRow    = 1088 // bytes, with the signature
	MaxModels = 8
	MaxSeries = 4  // a model
	MaxAgent  = 24 // bytes of Row.Agent
	NumEdges  = 3
)

// Row is what a member says of itself: the fixed part of its report. Counters
// are cumulative since the boot epoch began.
type Row struct {
	Key       KeyID
	Epoch     uint64 // grows with each start of the member; persisted before the first row
	Seq       uint64 // grows with each row of the epoch, from 1
	Time      int64  // the member's clock, Unix seconds
	Directive uint64 // sequence of the newest directive it acted on
	Freshness Freshness
	Refusal   uint8  // number of the rule that refused the newest pack, below 64, while Untrusted
	RSS       uint64 // KiB, of the agent
	Agent     string // version of the agent: printable ASCII without spaces
	Delivery  Delivery
	Log       LogHead // of the audit log, as its trust pack showed it
	Models    []Model
}

// LogHead is the checkpoint of the audit log that a member was shown: how many
// entries, and the first half of the root hash, which is enough to tell two logs
// of one size apart. Zero: none.
type LogHead struct {
	Size uint64
	Root [16]byte
}

// IsZero reports whether there is none.
func (l LogHead) IsZero() bool { return l.Size == 0 }

// Freshness is how the member's trust pack stands.
type Freshness uint8

// The states of a trust pack. Their numbers are on the wire.
const (
	NoPack    Freshness = iota // it has none that verifies
	Fresh                      // its timestamp has not expired
	Stale                      // expired: the member keeps what it has and starts nothing new
	Untrusted                  // the newest it was offered was refused, and no other source has a good one
	numFreshness
)

// String is the state's name.
func (f Freshness) String() string {
	return [...]string{"none", "fresh", "stale", "untrusted", "unknown"}[min(f, numFreshness)]
}

// Model is how a member stands with one model.
type Model struct {
	Model   Prefix // of the model's name; Row.Models is sorted by it
	Running Prefix // of the OMS root it observes itself running; zero: nothing
	Target  Prefix // of the OMS root that Phase, Failure and Fetched are about; zero: nothing
	Rollout Prefix // that concerns the member; zero: none
	Arm     fleet.Arm
	Phase   fleet.Phase
	Failure fleet.FailureClass
	Code    FailureCode
	Failing int64    // Unix seconds since when it fails so; 0 without a failure
	Fetched Fetched  // bytes of Target, by the newest fetch
	Total   uint64   // of so many
	Series  []Series // in the order they began; the one of Running, Rollout and Arm is being counted
}

// SeriesKey is what counters are kept apart by: a switch, or a rollout that
// begins to concern the member, starts a new series at zero.
type SeriesKey struct {
	Release Prefix // of the OMS root that served
	Rollout Prefix
	Arm     fleet.Arm
}

// Series is what was counted under one key. Rows repeat earlier series, so that
// the final values of a release are not lost with the row that held them.
type Series struct {
	SeriesKey
	Since int64 // Unix seconds: when the release was activated, or the rollout began to concern it; burn-in counts from here
	Alarm bool  // the member's own test says that it got worse (self-alarm)
	Counters
}

// Counters only grow within an epoch.
type Counters struct {
	Requests   uint64
	Errors     uint64
	Windows    uint64           // windows with a request in them
	ErrWindows uint64           // of them, with an error in them
	Exceed     [NumEdges]uint64 // requests slower than each latency edge
	Right      uint64           // labelled predictions that were right
	Wrong      uint64
	Fatal      uint64 // load or self-test failures, crashes
}

// Add adds d to c.
func (c *Counters) Add(d Counters) {
	c.Requests += d.Requests
	c.Errors += d.Errors
	c.Windows += d.Windows
	c.ErrWindows += d.ErrWindows
	for i := range c.Exceed {
		c.Exceed[i] += d.Exceed[i]
	}
	c.Right += d.Right
	c.Wrong += d.Wrong
	c.Fatal += d.Fatal
}

// At is the row's time.
func (r Row) At() time.Time { return time.Unix(r.Time, 0).UTC() }

// Model is the row's part about a model.
func (r Row) Model(m Prefix) (Model, bool) {
	for _, p := range r.Models {
		if p.Model == m {
			return p, true
		}
	}
	return Model{}, false
}

// Sign encodes the row and signs it with the key that Row.Key names.
func (r Row) Sign(fleetName string, key crypto.Signer) ([]byte, error) {
	body := r.appendTo(make([]byte, 0, 256))
	if _, err := parseRowBody(body); err != nil {
		return nil, fault.New(fault.Invalid, "encode row", r.Key.String(), err)
	}
	if len(body)+SignatureSize > MaxRow {
		return nil, fault.Newf(fault.Exhausted, "encode row", r.Key.String(), "%d bytes, at most %d", len(body)+SignatureSize, MaxRow)
	}
	return Seal(RowDomain, fleetName, key, body)
}

// ParseRow reads a signed row and does not check its signature: use it to learn
// whose key to verify with, or where the signature was checked before.
func ParseRow(msg []byte) (Row, error) {
	if len(msg) > MaxRow || len(msg) < SignatureSize {
		return Row{}, fault.Newf(fault.Invalid, "read row", "", "%d bytes", len(msg))
	}
	r, err := parseRowBody(msg[:len(msg)-SignatureSize])
	if err != nil {
		return Row{}, fault.New(fault.Invalid, "read row", "", err)
	}
	return r, nil
}
