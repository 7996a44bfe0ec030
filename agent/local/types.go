package local

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Listing answers GET /v1/models.
type Listing struct {
	Member         fleet.MemberID `json:"member"`
	Agent          string         `json:"agent"`               // version
	Directive      uint64         `json:"directive"`           // sequence of the newest one acted on
	Freshness      string         `json:"freshness,omitempty"` // none, fresh, stale or untrusted
	FreshnessSince time.Time      `json:"freshnessSince,omitzero"`
	Remedy         string         `json:"remedy,omitempty"`  // what a person can do when it is not fresh
	PackURL        *PackURL       `json:"packUrl,omitempty"` // by which packs are read while the coordinator is away
	Audit          *Audit         `json:"audit,omitempty"`   // the fleet's audit log, as far as this device was shown it
	Refused        string         `json:"refused,omitempty"` // why the newest trust pack was not believed
	Damaged        uint64         `json:"damaged,omitempty"` // files found damaged on the disk since the agent started, and fetched again
	Models         []Model        `json:"models"`
}

// PackURL is how the URL stands by which a device without a source of its own reads
// trust packs while the coordinator is away. The URL itself is a secret.
type PackURL struct {
	Until   time.Time `json:"until,omitzero"`    // by the device's clock; zero: there is none yet
	Trouble string    `json:"trouble,omitempty"` // what is wrong with it, and the next move
}

// Audit is what a device knows of the fleet's audit log.
type Audit struct {
	Entries    uint64 `json:"entries"`
	Root       string `json:"root"`               // root hash
	Checkpoint string `json:"checkpoint"`         // as signed
	Unproven   int    `json:"unproven,omitempty"` // other checkpoints seen, not yet shown to be of the same log
	Split      string `json:"split,omitempty"`    // what contradicts it: the device holds
	Mine       string `json:"mine,omitempty"`     // with the two signed checkpoints as evidence
	Theirs     string `json:"theirs,omitempty"`
}

// Model is how one model stands on this device. GET /v1/models/{model}.
type Model struct {
	Name        fleet.ModelName    `json:"name"`
	Serving     *Release           `json:"serving,omitempty"` // what Load gives
	Previous    *Release           `json:"previous,omitempty"`
	Want        string             `json:"want,omitempty"` // what the directive says it should run
	Phase       fleet.Phase        `json:"phase"`
	Since       time.Time          `json:"since,omitzero"`
	Why         string             `json:"why,omitempty"`    // why it is in that phase
	Reason      string             `json:"reason,omitempty"` // why it should run what it should
	Arm         string             `json:"arm"`
	Rollout     fleet.RolloutID    `json:"rollout,omitempty"`
	Failure     fleet.FailureClass `json:"failure,omitempty"`
	FailureCode string             `json:"failureCode,omitempty"`
	FailureText string             `json:"failureText,omitempty"`
	Quarantined []Refused          `json:"quarantined,omitempty"`
	BytesDone   int64              `json:"bytesDone,omitempty"`
	BytesTotal  int64              `json:"bytesTotal,omitempty"`
	BytesReused int64              `json:"bytesReused,omitempty"` // of the newest install: that were on the disk already
	BytesFrom   *api.Sources       `json:"bytesFrom,omitempty"`   // of the newest install: where verified bytes came from
	BytesWire   int64              `json:"bytesWire,omitempty"`   // of the newest install: taken from the bucket
	Rate        int64              `json:"rate,omitempty"`        // bytes a second that arrive; 0: not known, or none do
	Left        fleet.Duration     `json:"left,omitempty"`        // until BytesTotal at this rate; 0: not known
	Waits       string             `json:"waits,omitempty"`       // what the fetch waits for while nothing moves
	Trouble     string             `json:"trouble,omitempty"`     // what goes wrong while the fetch is tried again and again
	Failing     time.Time          `json:"failing,omitzero"`      // since when it fails so, however often it tried again
	Damaged     bool               `json:"damaged,omitempty"`     // the disk damaged files of Serving; they are being put right
	Held        string             `json:"held,omitempty"`        // why it keeps what it has, though the directive names another release
	Revoked     string             `json:"revoked,omitempty"`     // why a release was taken back that is served on, or that nothing took the place of
	Counts                         // what applications observed of Serving since the agent started
}

// Counts is what applications observed.
type Counts struct {
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"`
	Right    uint64 `json:"right"` // labelled predictions that were right
	Wrong    uint64 `json:"wrong"`
}

// Release is verified files on this device.
type Release struct {
	Ref  string       `json:"ref"`  // "detector@1.5.0"
	Root fleet.Digest `json:"root"` // names exactly these bytes
	Path string       `json:"path"` // folder, absolute, read-only
	// Mended is when damaged files in it were put right last: an application that
	// read them before is to load it again.
	Mended time.Time `json:"mended,omitzero"`
}

// Refused is a release that failed on this device.
type Refused struct {
	Ref  string       `json:"ref"`
	Root fleet.Digest `json:"root"`
	Code string       `json:"code"`
	Text string       `json:"text"`
	At   time.Time    `json:"at"`
}

// LoadRequest asks for the current release. POST /v1/models/{model}/load.
type LoadRequest struct {
	// App names the application on this device. Loading the same release twice
	// under one name without unloading counts as a crash of the application.
	App string `json:"app"`
}

// Loaded is a release given to an application, with the lease it holds.
type Loaded struct {
	Release
	Model fleet.ModelName `json:"model"`
	Lease string          `json:"lease"`
	// TTL is how long the lease lasts without a sign of life; observe and a
	// watch with the lease are signs of life.
	TTL fleet.Duration `json:"ttl"`
}

// UnloadRequest gives a lease back. POST /v1/models/{model}/unload.
type UnloadRequest struct {
	Lease string `json:"lease"`
	// Failed says that the release could not be loaded, and why. While the
	// release is watched, that is a failure of the release.
	Failed string `json:"failed,omitempty"`
}

// ObserveRequest reports what an application observed with one release. POST
// /v1/models/{model}/observe.
type ObserveRequest struct {
	Lease        string        `json:"lease,omitempty"`
	Root         fleet.Digest  `json:"root"` // of the release that was used
	Observations []Observation `json:"observations"`
}

// Observation is one use of the model.
type Observation struct {
	Micros int64    `json:"micros"`          // how long it took, in microseconds
	Error  bool     `json:"error,omitempty"` // it failed
	Score  *float64 `json:"score,omitempty"` // what was predicted, or how sure the model was
	Right  *bool    `json:"right,omitempty"` // whether it was right, where the truth is known
}

// LiftRequest lets a release that failed here be tried again. POST
// /v1/models/{model}/lift, for root and the agent's own user only.
type LiftRequest struct {
	Root fleet.Digest `json:"root"`
}

// Loss is an application that lost a release.
type Loss struct {
	Model fleet.ModelName
	Root  fleet.Digest
	App   string
	Why   string // for people
	// Fatal: the application said that the release does not load.
	Fatal bool
}

// Host is the agent as this API sees it. Its methods may be called from many
// goroutines and do not block on I/O.
type Host interface {
	// Listing is how things stand now, models sorted by name.
	Listing() Listing
	// Observe takes observations made with the release that root names.
	Observe(model fleet.ModelName, root fleet.Digest, obs []Observation)
	// Lost tells that an application lost a release without unloading it.
	Lost(Loss)
	// Lift takes a release out of quarantine.
	Lift(model fleet.ModelName, root fleet.Digest)
}
