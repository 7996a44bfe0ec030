// Package store is what the coordinator remembers, in small interfaces, one for
// each nature of thing. The records are plain values; store/sqlite keeps them
// in one file, and store/storetest is the contract that any implementation has
// to pass.
//
// Two promises hold for every method. It is one transaction: all of it happened
// or nothing. And an [audit.Note] given along with a change is written in
// that same transaction, so that no change is without its entry and no entry
// without its change.
//
// Users declare the interface they need; the ones here are grouped for the
// conformance suite and for documentation.
package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Member is an enrolled member.
type Member struct {
	Facts      fleet.Facts
	PublicKey  []byte // SubjectPublicKeyInfo, DER
	KeyID      telemetry.KeyID
	Cell       string
	Generation uint64    // of its newest certificate
	Confirmed  bool      // the newest certificate was shown
	Expires    time.Time // of the newest certificate

	Certificate fleet.Digest // SHA-256 of the newest certificate: it cannot be guessed, as a generation can
	Previous    fleet.Digest // and of the one before
	Issuer      fleet.Digest // SHA-256 of the device CA's certificate that issued the newest
	Floor       uint64       // certificates of lower generations are refused
	Comebacks   int          // since an operator allowed more

	Token      string       // id of the join token it came by
	Hardware   fleet.Digest // of the machine it enrolled on, as far as it said
	GossipAddr string       // host:port, or ""
	Locked     string       // why its identity is locked, or ""
	Shown      *Shown       `json:",omitempty"` // the certificate it was locked for
	Readmit    bool         // it was unlocked and has to come back
	Revoked    bool
}

// Shown is a stale certificate that somebody showed.
type Shown struct {
	Generation  uint64
	Certificate fleet.Digest
}

// Pending is a member that waits for approval.
type Pending struct {
	api.PendingMember
	PublicKey []byte // SubjectPublicKeyInfo, DER
	KeyID     telemetry.KeyID
}

// Members keeps the inventory.
type Members interface {
	// Members lists every member ever enrolled, by id.
	Members(ctx context.Context) ([]Member, error)
	// Enrol adds m and uses up one use of its token. With the same id and public
	// key enrolled by the same token, and not confirmed yet, it changes the
	// certificate's fields only, so that a lost answer costs no use. A taken id is a
	// Conflict, a token that is spent, expired at now or unknown is Denied. A member
	// that was approved costs no use either, its waiting did: it is no longer pending.
	Enrol(ctx context.Context, m Member, now time.Time, note audit.Note) error
	// SaveMember replaces a known member.
	SaveMember(ctx context.Context, m Member, notes ...audit.Note) error
}

// Waiting keeps the members that wait for approval.
type Waiting interface {
	Pending(ctx context.Context) ([]Pending, error)
	// AddPending adds p and uses up one use of its token; Denied as in Enrol. One of
	// that id is replaced when it was denied, and a Conflict otherwise.
	AddPending(ctx context.Context, p Pending, now time.Time, note audit.Note) error
	// SavePending replaces a known one. When it is denied now, its token gets the use
	// back.
	SavePending(ctx context.Context, p Pending, note audit.Note) error
}

// Cell is one gossip pool.
type Cell struct {
	ID   string // "SITE/N"
	Site string
	Key  []byte // the newest
	// Number counts the keys before Key. Past are those that may still be in use,
	// newest first.
	Number uint64    `json:",omitempty"`
	Made   time.Time `json:",omitzero"` // when Key was; zero: with the cell
	Past   []PastKey `json:",omitempty"`
}

// PastKey is a key that a cell had before.
type PastKey struct {
	Key  []byte
	Made time.Time `json:",omitzero"`
}

// Cells keeps the gossip pools and their keys.
type Cells interface {
	Cells(ctx context.Context) ([]Cell, error)
	// AddCell adds a cell; one that is there stays as it is.
	AddCell(ctx context.Context, c Cell) error
	// SaveCell replaces a known cell.
	SaveCell(ctx context.Context, c Cell, notes ...audit.Note) error
}

// Token is a join token. The secret is kept as a hash only.
type Token struct {
	api.Token
	SecretHash fleet.Digest
	By         string
}

// Tokens keeps the join tokens.
type Tokens interface {
	AddToken(ctx context.Context, t Token, note audit.Note) error
	// Token is one token; NotFound when there is none of the id.
	Token(ctx context.Context, id string) (Token, error)
	Tokens(ctx context.Context) ([]Token, error)
	DeleteToken(ctx context.Context, id string, note audit.Note) error
}

// Operator is the holder of a token: a person or a program that may use the
// operators' API.
type Operator struct {
	Name      string
	Role      api.Role
	Scope     api.Scope    `json:",omitzero"`
	TokenHash fleet.Digest // all that is kept of the token
	Created   time.Time
	By        string    // who made it
	Expires   time.Time `json:",omitzero"`  // zero: it does not
	Used      time.Time `json:",omitzero"`  // last, as TouchOperator was told
	As        []string  `json:",omitempty"` // as in api.OperatorToken; empty: the name alone
}

// Operators keeps them.
type Operators interface {
	// AddOperator adds one; a taken name is a Conflict.
	AddOperator(ctx context.Context, o Operator, note audit.Note) error
	// OperatorByToken finds the operator whose token has the hash; NotFound.
	OperatorByToken(ctx context.Context, hash fleet.Digest) (Operator, error)
	Operators(ctx context.Context) ([]Operator, error)
	// SaveOperator replaces a known one, also its token; NotFound.
	SaveOperator(ctx context.Context, o Operator, note audit.Note) error
	// TouchOperator notes when one was last used.
	TouchOperator(ctx context.Context, name string, at time.Time) error
	DeleteOperator(ctx context.Context, name string, note audit.Note) error
}

// Claims are what the fleet's OpenID issuer said of a person when they signed in,
// as far as a role can hang on it.
type Claims struct {
	Issuer, Subject string
	Name            string   // for people and the audit log; holds an "@", as no operator's name does
	Email           string   `json:",omitempty"` // verified by the issuer; else ""
	Groups          []string `json:",omitempty"`
	GroupsClaim     string   // which claim the groups are of
	Elsewhere       bool     `json:",omitempty"` // the groups were too many for a token
}

// Identity is what approvals are counted by.
func (c Claims) Identity() string { return c.Issuer + "#" + c.Subject }

// Person is who signed in at the fleet's OpenID issuer, with what the coordinator's
// mapping gives them now.
type Person struct {
	Claims
	Role    api.Role
	Scope   api.Scope
	Why     string        // which line of the mapping, for the audit log
	Session time.Duration // how long a sign-in lasts; 0: as by token
}

// SessionKind is what a session is used by. One is not taken for the other.
type SessionKind string

// The kinds of session.
const (
	CommandSession SessionKind = "commands"
	BrowserSession SessionKind = "browser"
)

// Session is one sign-in.
type Session struct {
	Hash  fleet.Digest // of what its holder shows
	Kind  SessionKind
	Name  string
	Token fleet.Digest `json:",omitzero"` // of the operator who began it by a token; role and scope are that operator's

	// Claims are of a person who signed in through the issuer: what they may do by
	// them is asked at each request. Zero: one who shows a token.
	Claims *Claims `json:",omitempty"`

	Created time.Time
	Seen    time.Time
	Expires time.Time
	Over    string `json:",omitempty"` // why it ended before its time; "": it did not
}

// Sessions keeps who is signed in.
type Sessions interface {
	AddSession(ctx context.Context, s Session, note audit.Note) error
	// Session finds one by its hash; NotFound.
	Session(ctx context.Context, hash fleet.Digest) (Session, error)
	Sessions(ctx context.Context) ([]Session, error)
	// TouchSession notes when one was last used.
	TouchSession(ctx context.Context, hash fleet.Digest, at time.Time) error
	// EndSessions ends them and keeps why; those that are not there are no error.
	EndSessions(ctx context.Context, hashes []fleet.Digest, why string, notes ...audit.Note) error
	// ForgetSessions removes them.
	ForgetSessions(ctx context.Context, hashes []fleet.Digest) error
}

// Message is a signed row or window as it came.
type Message struct {
	Received time.Time
	Via      string // gossip, relay or direct
	Bytes    []byte // as signed
}

// ID names a message by its content.
func (m Message) ID() fleet.Digest { return fleet.DigestOf(m.Bytes) }

// Messages keeps what members said, so that a restart forgets nothing. What
// counts among them is telemetry.Table's to say; this is a log that is thinned
// out now and then.
type Messages interface {
	// Messages lists all that are kept, in the order of arrival.
	Messages(ctx context.Context) ([]Message, error)
	// SaveMessages keeps messages; one that is there already stays once.
	SaveMessages(ctx context.Context, ms []Message) error
	// KeepMessages drops all but those named and reports how many it dropped.
	KeepMessages(ctx context.Context, keep map[fleet.Digest]bool) (int, error)
}

// Release is a release that was admitted.
type Release struct {
	fleet.Release
	Admitted time.Time
	By       string
	Metrics  map[string]float64
	Revoked  bool
}

// Admission is what one reading of a publisher's role changed.
type Admission struct {
	Team     fleet.Team
	Admitted []Release
	Revoked  []string // refs that are no longer listed
}

// Releases keeps what the fleet may run.
type Releases interface {
	// Releases lists every release ever admitted, newest first.
	Releases(ctx context.Context) ([]Release, error)
	Admit(ctx context.Context, a Admission, notes ...audit.Note) error
}

// Rollout is a rollout as it stands.
type Rollout struct {
	ID       fleet.RolloutID
	Group    fleet.Group
	Release  fleet.Release
	From     string // ref of the stable release it began from, or ""
	Author   string
	AuthorAs []string // the author's identities, as in api.OperatorToken
	Started  time.Time
	Ended    time.Time // zero while it lives
	Spec     json.RawMessage
	Status   json.RawMessage // rollout.Status
	Analysis json.RawMessage `json:",omitempty"` // analysis.State, of the stage it is in
	Verdict  json.RawMessage `json:",omitempty"` // the newest api.VerdictInfo of each stage, by index
	Edges    [3]uint64       // latency edges of the stable release when it began, in microseconds
	Info     json.RawMessage `json:",omitempty"` // api.RolloutInfo as of the newest decision, without history
}

// Command is an operator's word to a rollout.
type Command struct {
	Rollout fleet.RolloutID
	Seq     uint64 // the store's: from 1 in each rollout, without gaps
	Command api.Command
	By      string
	As      []string // the identities of By, as in api.OperatorToken; of Disown: of who is gone
	Reason  string
	Hold    bool
	At      time.Time
}

// Rollouts keeps rollouts and what was said to them.
type Rollouts interface {
	// Rollouts lists all of them, newest first; live ones only when live is set.
	Rollouts(ctx context.Context, live bool) ([]Rollout, error)
	Rollout(ctx context.Context, id fleet.RolloutID) (Rollout, error)
	// AddRollout adds one; a taken id is a Conflict.
	AddRollout(ctx context.Context, r Rollout, note audit.Note) error
	AddCommand(ctx context.Context, c Command, note audit.Note) error
	// Commands lists a rollout's commands with a Seq above after, in order.
	Commands(ctx context.Context, id fleet.RolloutID, after uint64) ([]Command, error)
	// Standings lists what is remembered of a rollout's members, by member.
	Standings(ctx context.Context, id fleet.RolloutID) ([]Standing, error)
	// Samples is a rollout's history for charts, oldest first.
	Samples(ctx context.Context, id fleet.RolloutID) ([]api.Sample, error)
}

// Directive is a directive as decided, and whether members can see it.
type Directive struct {
	Group     fleet.Group
	Sequence  uint64
	Body      []byte // JSON of fleet.Directive: the bytes that are signed
	Issued    time.Time
	Published time.Time // zero until its pack is in the bucket
}

// Standing is what is remembered of one member in one rollout.
type Standing struct {
	Rollout fleet.RolloutID
	Member  fleet.MemberID
	Body    json.RawMessage // intake.Standing
}

// Decision is the outcome of one turn of the loop.
type Decision struct {
	Rollouts  []Rollout  // replaced as a whole
	Standings []Standing // added or replaced
	Samples   map[fleet.RolloutID]api.Sample
	Directive *Directive // its Sequence must follow the group's newest, if any
	Notes     []audit.Note
}

// Decisions keeps directives and takes whole decisions.
type Decisions interface {
	// Commit writes a decision in one transaction. The first directive of a group
	// may have any sequence; one that does not follow the newest is a Conflict:
	// another coordinator decides here.
	Commit(ctx context.Context, d Decision) error
	// Directive is the group's newest; NotFound when there is none.
	Directive(ctx context.Context, g fleet.Group) (Directive, error)
	// MarkPublished notes that members can see the directive.
	MarkPublished(ctx context.Context, g fleet.Group, sequence uint64, at time.Time, notes ...audit.Note) error
	// SavePublication keeps signed bytes that are about to be written to the
	// bucket, so that a restart writes the same; nil forgets them.
	SavePublication(ctx context.Context, signed []byte) error
	// Publication is what SavePublication kept; nil when there is nothing.
	Publication(ctx context.Context) ([]byte, error)
}

// AuditLog is the append-only log.
type AuditLog interface {
	audit.Store
	// Audit lists entries whose index is above after, oldest first, at most limit.
	Audit(ctx context.Context, after uint64, limit int) ([]api.AuditEntry, error)
	// AuditTail is the newest n entries, oldest first.
	AuditTail(ctx context.Context, n int) ([]api.AuditEntry, error)
	// Append adds entries that go with no other change.
	Append(ctx context.Context, notes ...audit.Note) error
	// AddSplit keeps evidence of another history, once.
	AddSplit(ctx context.Context, s api.AuditSplit, notes ...audit.Note) (added bool, err error)
	// Splits lists it, oldest first.
	Splits(ctx context.Context) ([]api.AuditSplit, error)
}

// Store is all of it, as one implementation gives it.
type Store interface {
	Members
	Waiting
	Cells
	Tokens
	Operators
	Sessions
	Messages
	Releases
	Rollouts
	Decisions
	AuditLog
	Close() error
}
