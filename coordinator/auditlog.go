package coordinator

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// openAudit opens the audit log before anything is written to it. Without a key
// the log is kept, but nobody can check it; a policy that lists one is obeyed.
func (h *house) openAudit(ctx context.Context) error {
	path := or(h.o.AuditKey, filepath.Join(h.o.Fleet, "keys", "audit.key"))
	listed := strings.TrimSuffix(h.publisher.AuditKey(), "\n")
	signer, public, err := ledger.LoadKey(path, h.m.file.Name)
	switch {
	case fault.Is(err, fault.NotFound) && listed == "" && h.o.AuditKey == "":
		h.log.Warn("audit log is not signed: there is no key for it", "path", path)
		return nil
	case err != nil:
		return err
	case listed != "" && listed != public:
		return trust.Violated(trust.RuleAudit, "open audit log", path, fmt.Errorf("the policy lists the key %s, this is %s", listed, public)).
			WithHint("start the coordinator with the audit key that the policy lists: -audit-key")
	}
	h.audit, err = audit.Open(ctx, audit.Options{Store: h.store, Bucket: h.bucket, Signer: signer, Key: public, Former: h.publisher.FormerAuditKeys, Logger: h.log})
	if err != nil {
		return err
	}
	h.publisher.Audited(publish.Audit{Prove: h.audit.Prove, Taken: h.taken})
	return h.upToDate(ctx)
}

// upToDate refuses a store that lacks directives which the log, taken from the
// bucket, speaks of: it would decide from a past that members have left.
func (h *house) upToDate(ctx context.Context) error {
	const op = "open audit log"
	group := fleet.DefaultGroup
	have, err := h.store.Directive(ctx, group)
	if fault.Is(err, fault.NotFound) {
		return nil // made anew: it goes on from what is in the bucket
	} else if err != nil {
		return err
	}
	_, leaf, err := h.store.AuditNewest(ctx, audit.DirectiveIssued, string(group))
	if err != nil {
		return err
	}
	e, err := ledger.ParseEntry(leaf)
	if err != nil {
		return fault.New(fault.Internal, op, string(group), err)
	}
	d, err := e.Directive()
	if err != nil {
		return fault.New(fault.Internal, op, string(group), err)
	}
	if d.Sequence <= have.Sequence {
		return nil
	}
	return fault.Newf(fault.Conflict, op, filepath.Join(h.o.Data, "coordinator.db"), "it ends with directive %d, the audit log with directive %d: it was restored from an old copy", have.Sequence, d.Sequence).
		WithHint("put a newer copy there; or keep coordinator.db elsewhere and start without it: log and directive are then taken from the bucket, and members, operators and rollouts have to be made anew")
}

// taken records that root or policy changed.
func (h *house) taken(ctx context.Context, versions map[string]int64) error {
	h.log.Info("root or policy taken up", "root", versions["root"], "policy", versions["targets"])
	return h.store.Append(ctx, note(time.Now().UTC(), audit.PolicyTaken, h.m.file.Name,
		fmt.Sprintf("root %d, policy %d", versions["root"], versions["targets"]), versions))
}

// tampered records that somebody else changed the bucket, and calls a person.
func (h *house) tampered(ctx context.Context, t publish.Tampered) error {
	now := time.Now().UTC()
	if err := h.store.Append(ctx, note(now, audit.BucketTampered, t.Key, t.String(), t)); err != nil {
		return err
	}
	h.events.Publish(api.Event{At: now, Kind: "alarm", Subject: t.Key, Text: "the bucket was tampered with: " + t.String() + "; it is put right, find who writes there"})
	return nil
}

// compareRow looks whether a member's row speaks of the log that this coordinator
// keeps. msg is the row as it was signed: the evidence.
func (h *house) compareRow(id fleet.MemberID, row telemetry.Row, msg []byte) {
	ctx := context.Background() // a row is compared whoever brought it, and whether or not they wait
	if h.audit == nil || row.Log.IsZero() {
		return
	}
	why, err := h.audit.Judge(ctx, row.Log.Size, row.Log.Root[:])
	if err != nil || why == "" {
		if err != nil {
			h.log.Error("checkpoint not compared", "device", id, "err", err)
		}
		return
	}
	claim := fmt.Sprintf("%d entries, root hash %x...", row.Log.Size, row.Log.Root)
	h.split(ctx, api.AuditSplit{Member: id, Claim: claim, Row: msg, Why: why})
}

// witness takes the checkpoints that a member cannot make agree with its own.
func (h *house) witness(ctx context.Context, id fleet.MemberID, notes []string) error {
	if h.audit == nil {
		return nil
	}
	for _, n := range notes {
		why, err := h.audit.JudgeNote(ctx, n)
		if err != nil {
			return err
		}
		if why != "" {
			h.split(ctx, api.AuditSplit{Member: id, Theirs: n, Why: why})
		}
	}
	return nil
}

// split keeps evidence and tells of it, once.
func (h *house) split(ctx context.Context, s api.AuditSplit) {
	_, s.Ours = h.audit.Checkpoint()
	s.Found = time.Now().UTC()
	n := note(s.Found, audit.SplitFound, string(s.Member), s.Why, map[string]string{"theirs": s.Theirs, "claim": s.Claim})
	added, err := h.store.AddSplit(ctx, s, n)
	if err != nil {
		h.log.Error("evidence of a split view is not kept", "device", s.Member, "err", err)
	}
	if !added {
		return
	}
	h.log.Error("split view of the audit log", "device", s.Member, "what", s.Why, "claim", s.Claim)
	h.events.Publish(api.Event{At: s.Found, Kind: "alarm", Subject: string(s.Member), Text: "was shown another history of this fleet: " + s.Why + "; see modelfleet audit splits"})
}

// publishAudit brings the log to the bucket also when nothing else is published.
func (h *house) publishAudit(ctx context.Context) {
	if h.audit == nil {
		return
	}
	err := h.audit.PublishIfDue(ctx, time.Now())
	if err == nil || ctx.Err() != nil {
		return
	}
	h.log.Error("audit log not published", "err", err, "hint", fault.Hint(err))
	if fault.Is(err, fault.Conflict) {
		h.events.Publish(api.Event{At: time.Now().UTC(), Kind: "alarm", Subject: h.m.file.Name, Text: err.Error()})
	}
}

// splits counts the evidence of other histories.
func (h *house) splits(ctx context.Context) (int, error) {
	found, err := h.store.Splits(ctx)
	return len(found), err
}
