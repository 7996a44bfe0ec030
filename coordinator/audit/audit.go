// Package audit makes the append-only log of everything the coordinator decided
// or was told: enrolments, admissions, commands, verdicts with their evidence,
// directives. Each entry holds the hash of the one before it, so that nothing
// can be changed, added or taken out behind the newest without being seen.
//
// A [Note] is what a decision says about itself. The store gives it its place in
// the chain, in the same transaction as the decision:
//
//	note := audit.Note{At: now, Actor: "coordinator", Action: "directive", Subject: "default", Reason: "..."}
//	entry, err := note.Entry(last)     // in the store
//	head, n, err := audit.Verify(ctx, store) // by anyone, later
//
// The package is pure but for reading through [Reader].
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Coordinator is the actor of what the coordinator decided by itself.
const Coordinator = "coordinator"

// The actions of the log.
const (
	MemberEnrolled   = "member.enrolled"
	MemberRefused    = "member.refused"
	MemberRenewed    = "member.renewed"
	MemberLocked     = "member.locked"
	MemberRevoked    = "member.revoked"
	TokenCreated     = "token.created"
	TokenDeleted     = "token.deleted"
	OperatorCreated  = "operator.created"
	OperatorDeleted  = "operator.deleted"
	ReleaseAdmitted  = "release.admitted"
	ReleaseRefused   = "release.refused"
	ReleaseRevoked   = "release.revoked"
	RolloutStarted   = "rollout.started"
	RolloutCommanded = "rollout.commanded"
	RolloutDecided   = "rollout.decided"
	RolloutVerdict   = "rollout.verdict"
	DirectiveIssued  = "directive.issued"
	PackPublished    = "pack.published"
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

// Entry is the note as the entry that follows prev, which is zero for the first.
func (n Note) Entry(prev api.AuditEntry) (api.AuditEntry, error) {
	e := api.AuditEntry{
		Index:   prev.Index + 1,
		At:      n.At.UTC(),
		Actor:   n.Actor,
		Action:  n.Action,
		Subject: n.Subject,
		Reason:  n.Reason,
		Prev:    prev.Hash,
	}
	if n.Detail != nil {
		b, err := json.Marshal(n.Detail) // compact and escaped: the same bytes after every hop
		if err != nil {
			return e, fault.New(fault.Internal, "write audit entry", n.Action, err)
		}
		e.Detail = b
	}
	e.Hash = e.Sum()
	return e, nil
}

// Reader lists entries whose index is above after, oldest first, at most limit.
type Reader interface {
	Audit(ctx context.Context, after uint64, limit int) ([]api.AuditEntry, error)
}

// Verify reads the whole log and checks its chain. It returns the number of
// entries and the hash of the last one.
func Verify(ctx context.Context, r Reader) (n uint64, head fleet.Digest, err error) {
	const page = 1000
	for {
		entries, err := r.Audit(ctx, n, page)
		if err != nil {
			return n, head, err
		}
		if len(entries) == 0 {
			return n, head, nil
		}
		if entries[0].Index != n+1 {
			return n, head, fault.Newf(fault.Untrusted, "check audit log", fmt.Sprintf("entry %d", n+1), "it is missing")
		}
		if err := api.CheckAudit(head, entries); err != nil {
			return n, head, err
		}
		last := entries[len(entries)-1]
		n, head = last.Index, last.Hash
	}
}
