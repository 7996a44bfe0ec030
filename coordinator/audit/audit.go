// Package audit keeps the append-only log of everything the coordinator decided
// or was told: enrolments, admissions, commands, verdicts with their evidence,
// directives. The log is a Merkle tree (package ledger), so that nothing can be
// changed, added or taken out without being seen, by anybody.
//
//	decision + Note ─▶ store, in one transaction ─▶ tiles ─▶ checkpoint ─▶ proof ─▶ trust pack
//
// A [Note] is what a decision says about itself; the store gives it its place in
// the log. [Log] brings the log to the bucket and signs it, before any member
// sees what it is about:
//
//	log, err := audit.Open(ctx, audit.Options{...})       // takes up what a lost store lacks
//	proof, err := log.Prove(ctx, vkey, group, directive)  // before the directive's pack
//	err = log.Publish(ctx)                                // now and then
package audit

import (
	"encoding/json"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// Coordinator is the actor of what the coordinator decided by itself.
const Coordinator = "coordinator"

// The actions of the log.
const (
	MemberEnrolled    = "member.enrolled"
	MemberRefused     = "member.refused"
	MemberRenewed     = "member.renewed"
	MemberLocked      = "member.locked"
	MemberRevoked     = "member.revoked"
	MemberReturned    = "member.returned"  // by its key, with a certificate that had expired
	MemberAllowed     = "member.allowed"   // to return again
	MemberCaughtUp    = "member.caught-up" // a restored store learnt of its newest certificate
	MemberUnlocked    = "member.unlocked"
	MemberPending     = "member.pending"
	MemberApproved    = "member.approved"
	MemberDenied      = "member.denied"
	CellRekeyed       = "cell.rekeyed"
	TokenCreated      = "token.created"
	TokenDeleted      = "token.deleted"
	OperatorCreated   = "operator.created"
	OperatorDeleted   = "operator.deleted"
	OperatorRotated   = "operator.rotated"
	OperatorSignedIn  = "operator.signed-in"
	OperatorSignedOut = "operator.signed-out"
	OperatorRefused   = "operator.refused"
	ReleaseAdmitted   = "release.admitted"
	ReleaseRefused    = "release.refused"
	ReleaseRevoked    = "release.revoked"
	FloorRaised       = "release.floor"
	RolloutStarted    = "rollout.started"
	RolloutCommanded  = "rollout.commanded"
	RolloutDecided    = "rollout.decided"
	RolloutVerdict    = "rollout.verdict"
	DirectiveIssued   = ledger.DirectiveIssued
	PackPublished     = "pack.published"
	PolicyTaken       = "policy.taken"    // a new root or policy was taken up
	BucketTampered    = "bucket.tampered" // somebody else changed what lies there
	SplitFound        = "audit.split"     // somebody was shown another history
	KeyTaken          = ledger.KeyTaken
)

// Note is an entry before it has its place in the log.
type Note struct {
	At      time.Time
	Actor   string // an operator's name, [Coordinator] or a member
	Action  string
	Subject string
	Reason  string
	Detail  any // marshalled to JSON; nil for none
}

// Entry is the note as it goes into the log.
func (n Note) Entry() (ledger.Entry, error) {
	e := ledger.Entry{At: n.At.UTC(), Actor: n.Actor, Action: n.Action, Subject: n.Subject, Reason: n.Reason}
	if n.Detail != nil {
		b, err := json.Marshal(n.Detail)
		if err != nil {
			return e, fault.New(fault.Internal, "write audit entry", n.Action, err)
		}
		e.Detail = b
	}
	return e, nil
}
