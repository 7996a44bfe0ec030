// Package api is the coordinator's HTTP contract: the types that travel, the
// paths they travel by, and a typed client. Members, functions, the operator's
// commands and the demo all speak to the coordinator through it;
// docs/formats/http.md is the same for people.
//
// Errors are application/problem+json ([Problem]); a kind of pkg/fault survives
// the wire.
package api

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Role is what an operator may do. Each role may do what those before it may.
type Role string

// The roles, weakest first.
const (
	Viewer   Role = "viewer"   // see everything
	Operator Role = "operator" // start, pause, resume, abort, roll back; make join tokens; admit releases
	Approver Role = "approver" // approve stages
	Admin    Role = "admin"    // make operators
)

// EnrolRequest asks for an identity. POST /v1/enrol, authenticated by the join
// token's secret.
type EnrolRequest struct {
	TokenID  string         `json:"tokenId"`
	Secret   string         `json:"secret"`
	Member   fleet.MemberID `json:"member"`
	Kind     fleet.Kind     `json:"kind"`
	Labels   fleet.Labels   `json:"labels,omitempty"`
	CSR      []byte         `json:"csr"`      // DER PKCS#10, signed by the member's P-256 key
	Agent    string         `json:"agent"`    // version
	Platform string         `json:"platform"` // GOOS/GOARCH
	// Hardware is what the machine is known by, as digests that are worth nothing to
	// another fleet; identity.Hardware makes them.
	Hardware []fleet.Digest `json:"hardware,omitempty"`
	// IAM proves the AWS role that a function runs as.
	IAM *SignedRequest `json:"iam,omitempty"`
}

// EnrolReply is a member's identity and everything it needs to begin. While an
// operator has to approve the member there is nothing in it but Pending.
type EnrolReply struct {
	Pending     *Pending    `json:"pending,omitempty"`
	Facts       fleet.Facts `json:"facts"`
	Certificate []byte      `json:"certificate"` // DER, valid 7 days
	Generation  uint64      `json:"generation"`  // of the certificate
	DeviceCA    []byte      `json:"deviceCa"`    // DER of the issuing CA; members check it against the TUF target
	Root        []byte      `json:"root"`        // root.json; its digest is in the join token
	Pack        []byte      `json:"pack"`        // the group's first trust pack
	Cell        Cell        `json:"cell"`
	Pins        []string    `json:"pins,omitempty"` // of the coordinator's TLS keys, in hex: today's and the next
}

// Cell is what a member needs to join its gossip pool.
type Cell struct {
	ID  string `json:"id"`  // "SITE/N"
	Key []byte `json:"key"` // the newest: 32 bytes, AES-256 of memberlist
	// Number grows with each new key; the first has 0. A key is changed when a
	// member that knew it is revoked.
	Number uint64 `json:"number,omitempty"`
	// Old are keys before it that others may still use. For UseIn from now on the
	// first of them encrypts, and Key only decrypts, so that everybody can get it
	// meanwhile; after DropIn they are forgotten.
	Old    [][]byte       `json:"old,omitempty"`
	UseIn  fleet.Duration `json:"useIn,omitempty"`
	DropIn fleet.Duration `json:"dropIn,omitempty"`
	Seeds  []string       `json:"seeds,omitempty"` // host:port of members seen there
}

// RenewRequest asks for a fresh certificate. POST /v1/renew over mTLS.
type RenewRequest struct {
	CSR        []byte `json:"csr"`
	Generation uint64 `json:"generation"` // of the certificate in use; a stale one locks the identity
	GossipAddr string `json:"gossipAddr,omitempty"`
}

// RenewReply is a fresh certificate.
type RenewReply struct {
	Certificate []byte `json:"certificate"`
	DeviceCA    []byte `json:"deviceCa"`
	Generation  uint64 `json:"generation"`
	Cell        Cell   `json:"cell"`
	// Pins replace those the member has; none leaves them.
	Pins []string `json:"pins,omitempty"`
}

// RowsReply answers POST /v1/cells/{cell}/rows, whose body is a telemetry batch.
type RowsReply struct {
	Accepted  int               `json:"accepted"`
	Duplicate int               `json:"duplicate"`
	Refused   []RefusedRow      `json:"refused,omitempty"`
	Acked     map[string]uint64 `json:"acked,omitempty"`   // member -> newest sequence known
	Directive uint64            `json:"directive"`         // newest sequence of the caller's group
	Time      time.Time         `json:"time"`              // the coordinator's clock
	Seeds     []string          `json:"seeds,omitempty"`   // gossip addresses in the caller's cell
	CellKey   uint64            `json:"cellKey,omitempty"` // number of the newest key of the caller's cell
}

// RefusedRow says why one row of a batch was not taken.
type RefusedRow struct {
	Member  string `json:"member"`  // its id, or its key's when it is not known
	Message string `json:"message"` // first 8 bytes of the message's SHA-256, in hex
	Reason  string `json:"reason"`
}

// PresignRequest asks for URLs to objects. POST /v1/objects over mTLS or with a
// function token: a device holds no AWS credentials.
type PresignRequest struct {
	Keys []string `json:"keys"` // at most 256
}

// PresignReply gives one URL a key, in order.
type PresignReply struct {
	URLs    []string  `json:"urls"`
	Expires time.Time `json:"expires"`
}

// PackURL reads the trust pack of the caller's group out of the bucket without
// credentials and without the coordinator, until it expires: a secret for one
// object. GET /v1/packs/{group}/url over mTLS.
type PackURL struct {
	URL  string         `json:"url"`
	Life fleet.Duration `json:"life"` // from now on: a week, or as long as the credentials that signed it
}

// TokenRequest makes a join token. POST /v1/tokens.
type TokenRequest struct {
	Group  fleet.Group    `json:"group,omitempty"`
	Kind   fleet.Kind     `json:"kind,omitempty"`
	Labels fleet.Labels   `json:"labels,omitempty"` // labels every member that joins by it gets; they win over the member's own
	Uses   int            `json:"uses,omitempty"`   // default 1
	TTL    fleet.Duration `json:"ttl,omitempty"`    // default 1h
	// Hardware, when there is any, is the machines that may join by it: digests in
	// hex, or names as `modelfleet-agent hardware` prints them, such as serial:4711.
	Hardware []string `json:"hardware,omitempty"`
	Approve  bool     `json:"approve,omitempty"` // an operator approves each member that wants to join by it
	IAM      []string `json:"iam,omitempty"`     // patterns of the AWS roles that functions may join as
}

// Token is a join token as listed; Text is given once, when it is made.
type Token struct {
	ID      string       `json:"id"`
	Text    string       `json:"text,omitempty"`
	Group   fleet.Group  `json:"group"`
	Kind    fleet.Kind   `json:"kind"`
	Labels  fleet.Labels `json:"labels,omitempty"`
	Uses    int          `json:"uses"`
	Used    int          `json:"used"`
	Expires time.Time    `json:"expires"`
	// Hardware is the digests of the machines that may join by it.
	Hardware []fleet.Digest `json:"hardware,omitempty"`
	Approve  bool           `json:"approve,omitempty"`
	IAM      []string       `json:"iam,omitempty"`
}

// OperatorRequest makes an operator. POST /v1/operators.
type OperatorRequest struct {
	Name  string         `json:"name"`
	Role  Role           `json:"role"`
	Scope Scope          `json:"scope,omitzero"` // of the role; an admin's is the whole fleet
	TTL   fleet.Duration `json:"ttl,omitempty"`  // until its token ends; 0: it does not
}

// RotateRequest gives an operator a new token in place of its old one. POST
// /v1/operators/{name}/rotate.
type RotateRequest struct {
	TTL fleet.Duration `json:"ttl,omitempty"` // until the new one ends; 0: it does not
}

// OperatorToken is an operator: a token's holder, or a person who signed in.
// Text is given once, when it is made.
type OperatorToken struct {
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Scope   Scope     `json:"scope,omitzero"`
	Text    string    `json:"text,omitempty"`
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by,omitempty"` // who made it; absent for a person who signed in
	Expires time.Time `json:"expires,omitzero"`
	Used    time.Time `json:"used,omitzero"` // last, to the minute
	// Session is set for a person who signed in through the fleet's OpenID issuer.
	Session bool `json:"session,omitempty"`
	// As are the identities that it speaks for: its own first, then of those who
	// made it. Who approves must not be, in any of them, who asks.
	As []string `json:"as,omitempty"`
}

// Person is the identity that stands behind the operator.
func (o OperatorToken) Person() string {
	if len(o.As) > 0 {
		return o.As[0]
	}
	return o.Name
}

// AdmitRequest asks the coordinator to take up what a publisher put into the
// bucket. POST /v1/releases.
type AdmitRequest struct {
	Team fleet.Team `json:"team"`
}

// AdmitReply says what the admission of a publisher's role changed.
type AdmitReply struct {
	Admitted []ReleaseInfo `json:"admitted,omitempty"` // newly listed, now runnable
	// Again are those of Admitted that were delisted before. Members that are told to
	// run one take it without another rollout.
	Again   []string      `json:"again,omitempty"`
	Known   []ReleaseInfo `json:"known,omitempty"`   // were admitted before
	Revoked []ReleaseInfo `json:"revoked,omitempty"` // delisted by their publisher: no member may run them any more
}

// RevokeRequest takes a member's identity away. POST /v1/members/{id}/revoke.
type RevokeRequest struct {
	Reason string `json:"reason,omitempty"`
}

// Barred is the one word for a reason why no member may run a release, as in
// [ReleaseInfo.RevokedFor] and [ModelStatus.Revoked]: its publisher delisted it, or
// a floor or the policy rules it out.
func Barred(why string) string {
	if strings.HasPrefix(why, "delisted") {
		return "delisted"
	}
	return "revoked"
}

// ReleaseInfo is a release that the fleet may run. GET /v1/releases.
type ReleaseInfo struct {
	Release  fleet.Release      `json:"release"`
	Admitted time.Time          `json:"admitted"`
	By       string             `json:"by"`
	Members  int                `json:"members"`           // that run it now
	Metrics  map[string]float64 `json:"metrics,omitempty"` // evaluation results the publisher signed
	Revoked  bool               `json:"revoked,omitempty"`
	// RevokedFor says why no member may run it any more.
	RevokedFor string `json:"revokedFor,omitempty"`
	// Unlisted: the team's keys of now do not list it, so no member takes it up,
	// though nobody took it back. The team renews its role to list it again.
	Unlisted bool `json:"unlisted,omitempty"`
}

// ModelStatus is what one member runs, and should run, of one model.
type ModelStatus struct {
	Model       fleet.ModelName    `json:"model"`
	Running     string             `json:"running,omitempty"` // ref, or the digest when it is not known
	RunningRoot fleet.Digest       `json:"runningRoot,omitzero"`
	Target      string             `json:"target,omitempty"`
	Phase       fleet.Phase        `json:"phase"`
	Arm         string             `json:"arm"`
	Rollout     fleet.RolloutID    `json:"rollout,omitempty"`
	Failure     fleet.FailureClass `json:"failure,omitempty"`
	FailureCode string             `json:"failureCode,omitempty"`
	Failing     time.Time          `json:"failing,omitzero"` // since when it fails so, however often it tried again
	Reason      string             `json:"reason"`           // why it should run the target
	Quarantined []fleet.Digest     `json:"quarantined,omitempty"`
	Requests    uint64             `json:"requests"`
	Errors      uint64             `json:"errors"`
	Right       uint64             `json:"right"` // labelled predictions that were right
	Wrong       uint64             `json:"wrong"`
	P50         fleet.Duration     `json:"p50,omitempty"`
	P95         fleet.Duration     `json:"p95,omitempty"`
	BytesDone   int64              `json:"bytesDone,omitempty"`
	BytesTotal  int64              `json:"bytesTotal,omitempty"`
	BytesFrom   *Sources           `json:"bytesFrom,omitempty"` // where BytesDone came from
	Rate        int64              `json:"rate,omitempty"`      // bytes a second that arrive; 0: not known, or none do
	Left        fleet.Duration     `json:"left,omitempty"`      // until BytesTotal at this rate; 0: not known
	Waits       string             `json:"waits,omitempty"`     // what the download waits for, which is no failure
	// Revoked says why no member may run what it runs any more: it has not heard of
	// that yet, or has nothing else and is told to keep it.
	Revoked string `json:"revoked,omitempty"`
}

// MemberInfo is a member. GET /v1/members, /v1/members/{id}.
type MemberInfo struct {
	Facts     fleet.Facts `json:"facts"`
	Cell      string      `json:"cell"`
	Seen      time.Time   `json:"seen,omitzero"` // its newest row
	Via       string      `json:"via,omitempty"` // how that row came: gossip, relay or direct
	Directive uint64      `json:"directive"`     // the newest it acted on
	// Freshness is how its trust pack stands: fresh; stale: it expired, and the
	// member holds what it has; untrusted: the newest was refused, by the rule
	// Refused, and no other source has a good one; none: it has none. Remedy is what
	// to do about it.
	Freshness      string        `json:"freshness,omitempty"`
	FreshnessSince time.Time     `json:"freshnessSince,omitzero"`
	Refused        string        `json:"refused,omitempty"`
	Remedy         string        `json:"remedy,omitempty"`
	RSS            int64         `json:"rss,omitempty"` // bytes, of the agent
	Delivery       *DeliveryInfo `json:"delivery,omitempty"`
	Models         []ModelStatus `json:"models"`
	Revoked        bool          `json:"revoked,omitempty"`
	Locked         string        `json:"locked,omitempty"` // why its identity is locked
	// Certificate is the newest that it was given.
	Certificate CertificateInfo `json:"certificate"`
}

// Explanation says in one screen why a member runs what it runs. GET
// /v1/members/{id}/explain.
type Explanation struct {
	Member MemberInfo `json:"member"`
	Lines  []string   `json:"lines"`
}

// RolloutRequest starts a rollout. POST /v1/rollouts.
type RolloutRequest struct {
	Model   fleet.ModelName `json:"model"`
	Version fleet.Version   `json:"version"`
	Group   fleet.Group     `json:"group,omitempty"`
	Spec    json.RawMessage `json:"spec,omitempty"`   // a fleet.Spec, strict
	Preset  string          `json:"preset,omitempty"` // instead of Spec
	Retry   bool            `json:"retry,omitempty"`  // as the spec's; for presets
	DryRun  bool            `json:"dryRun,omitempty"` // check everything and begin nothing; the answer has no id
	Reason  string          `json:"reason,omitempty"`
}

// Command is what an operator may tell a rollout. POST
// /v1/rollouts/{id}/{command}.
type Command string

// The commands.
const (
	Pause    Command = "pause"
	Resume   Command = "resume"
	Abort    Command = "abort"
	Rollback Command = "rollback"
	Approve  Command = "approve"
	Skip     Command = "skip"   // emergency: go to the last stage at once; takes two approvers
	Disown   Command = "disown" // the coordinator's own: who approved is no operator any more
)

// CommandRequest is the body of a command.
type CommandRequest struct {
	Reason string `json:"reason,omitempty"`
	Hold   bool   `json:"hold,omitempty"` // pause: not even a failing gate rolls back
}

// StageInfo is how one stage stands.
type StageInfo struct {
	Name    string         `json:"name"`
	State   string         `json:"state"`
	Target  int            `json:"target"`  // members it should expose; of a stage that has not begun, with the members of now
	Exposed int            `json:"exposed"` // members told
	Since   time.Time      `json:"since,omitzero"`
	Soak    fleet.Duration `json:"soak"`
	Verdict *VerdictInfo   `json:"verdict,omitempty"`
}

// VerdictInfo is a gate engine's verdict with its evidence.
type VerdictInfo struct {
	Outcome  string          `json:"outcome"` // pass, fail or inconclusive
	Reason   string          `json:"reason"`
	At       time.Time       `json:"at"`
	Gates    []GateInfo      `json:"gates"`
	Evidence json.RawMessage `json:"evidence,omitempty"` // the exact input, for replay
}

// GateInfo is one gate's part in a verdict.
type GateInfo struct {
	Gate      string  `json:"gate"`
	Outcome   string  `json:"outcome"`
	Reason    string  `json:"reason"`
	E         float64 `json:"e"`     // evidence against the release; fails at Threshold
	PassE     float64 `json:"passE"` // evidence that it is not worse than tolerated
	Threshold float64 `json:"threshold"`
}

// ArmInfo is what one side of a comparison reported while the rollout ran.
type ArmInfo struct {
	Members  int            `json:"members"`
	Seen     int            `json:"seen"` // of them reported
	Requests uint64         `json:"requests"`
	Errors   uint64         `json:"errors"`
	Right    uint64         `json:"right"`
	Wrong    uint64         `json:"wrong"`
	Fatal    int            `json:"fatal"` // members the release failed on
	P50      fleet.Duration `json:"p50"`
	P95      fleet.Duration `json:"p95"`
	P99      fleet.Duration `json:"p99"`
}

// RolloutInfo is a rollout. GET /v1/rollouts, /v1/rollouts/{id}.
type RolloutInfo struct {
	ID          fleet.RolloutID `json:"id"`
	Release     fleet.Release   `json:"release"`
	From        string          `json:"from,omitempty"` // the stable release it began from
	Group       fleet.Group     `json:"group"`
	State       string          `json:"state"`
	Hold        bool            `json:"hold,omitempty"` // paused so that not even a failing gate rolls back
	Reason      string          `json:"reason"`         // why it is in that state, with numbers
	Author      string          `json:"author"`
	Started     time.Time       `json:"started"`
	Ended       time.Time       `json:"ended,omitzero"`
	Stage       int             `json:"stage"` // index into Stages
	Stages      []StageInfo     `json:"stages"`
	Population  int             `json:"population"`
	EverExposed int             `json:"everExposed"` // members that ever ran the release
	StillOn     int             `json:"stillOn"`     // members that run it now
	Exposed     ArmInfo         `json:"exposed"`
	Control     ArmInfo         `json:"control"`
	Fetching    *FetchingInfo   `json:"fetching,omitempty"` // members that download it now
	Stuck       []StuckInfo     `json:"stuck,omitempty"`    // members that cannot bring it in, which does not count against it
	Approvals   []string        `json:"approvals,omitempty"`
	History     []Sample        `json:"history,omitempty"` // for charts, oldest first
}

// Sample is one point of a rollout's history.
type Sample struct {
	At      time.Time `json:"at"`
	Exposed ArmInfo   `json:"exposed"` // cumulative since the rollout began
	Control ArmInfo   `json:"control"`
}

// Event is one message of the stream GET /v1/events (text/event-stream).
type Event struct {
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"` // member, rollout, release, directive, alarm
	Subject string    `json:"subject"`
	Text    string    `json:"text"`
}

// FleetInfo is the fleet in one look. GET /v1/fleet.
type FleetInfo struct {
	Name      string         `json:"name"`
	Group     fleet.Group    `json:"group"`
	Directive uint64         `json:"directive"`
	Members   int            `json:"members"`
	Reporting int            `json:"reporting"` // in the last three report periods
	Functions int            `json:"functions"`
	Running   map[string]int `json:"running"` // release ref -> members
	Pack      PackInfo       `json:"pack"`
	DeviceCAs []DeviceCAInfo `json:"deviceCas"` // that the policy lists, newest first
	Pending   int            `json:"pending"`   // members that wait for approval
}

// PackInfo is the newest trust pack.
type PackInfo struct {
	Bytes   int          `json:"bytes"`
	Digest  fleet.Digest `json:"digest"`
	Signed  time.Time    `json:"signed"`
	Expires time.Time    `json:"expires"` // of the timestamp role
}

// Problem is an error on the wire, as RFC 9457.
type Problem struct {
	Type   string `json:"type"` // "https://modelfleet.dev/problems/KIND"
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Kind   string `json:"kind"`
	Hint   string `json:"hint,omitempty"`
}
