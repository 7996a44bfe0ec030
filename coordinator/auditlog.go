package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sign "golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// openAudit opens the audit log before anything is written to it. Without a key
// the log is kept, but nobody can check it; a policy that lists one is obeyed.
func (h *house) openAudit(ctx context.Context) (err error) {
	public := strings.TrimSuffix(h.publisher.AuditKey(), "\n")
	if public == "" {
		path := h.auditKeyPath()
		_, public, err = ledger.LoadKey(path, h.m.file.Name)
		if fault.Is(err, fault.NotFound) && h.o.AuditKey == "" {
			h.log.Warn("audit log is not signed: there is no key for it", "path", path)
		} else if err != nil {
			return err
		}
	}
	h.audit, err = audit.Open(ctx, audit.Options{Store: h.store, Bucket: h.bucket, Key: public, Keys: h.auditKey, Former: h.publisher.FormerAuditKeys,
		Restoring: func() error { return cas.WriteFile(h.restoring(), nil, 0o600) }, Logger: h.log})
	if err != nil {
		return err
	}
	h.publisher.Audited(publish.Audit{Prove: h.audit.Prove, Taken: h.taken})
	if err := h.upToDate(ctx); err != nil {
		return err
	}
	return h.remember(ctx)
}

// restoring is a file that is there from when the store takes entries of the audit log
// from the bucket until the inventory has read in them what the store forgot.
func (h *house) restoring() string { return filepath.Join(h.o.Data, "restoring") }

// remember has the inventory read what a restored store forgot, also when the start
// that restored it was cut short.
func (h *house) remember(ctx context.Context) error {
	const op = "restore members"
	if _, err := os.Stat(h.restoring()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return cas.Classify(op, h.restoring(), err)
	}
	if err := h.inventory.Restored(ctx, time.Now().UTC()); err != nil {
		return err
	}
	return cas.Classify(op, h.restoring(), os.Remove(h.restoring())) // one that comes back only has it read again
}

// auditKeyPath is where the first key of the audit log is.
func (h *house) auditKeyPath() string {
	return or(h.o.AuditKey, filepath.Join(h.o.Fleet, "keys", "audit.key"))
}

// auditKey finds the audit key of a public one, which the policy lists: the file
// that was named, or one of the fleet's folder that is called audit*.key. `modelfleet
// key rotate audit` puts the next one there before the policy lists it, so that the
// coordinator takes it up by itself.
func (h *house) auditKey(_ context.Context, public string) (sign.Signer, error) {
	files, err := filepath.Glob(filepath.Join(h.o.Fleet, "keys", "audit*.key"))
	if err != nil {
		files = nil // the folder's own name is a bad pattern: then only the named file is used
	}
	var seen []string
	for _, path := range append([]string{h.auditKeyPath()}, files...) {
		s, has, err := ledger.LoadKey(path, h.m.file.Name)
		if err != nil {
			seen = append(seen, err.Error())
			continue
		}
		if has == public {
			return s, nil
		}
		seen = append(seen, path+" is "+has)
	}
	slices.Sort(seen)
	return nil, trust.Violated(trust.RuleAudit, "open audit log", filepath.Join(h.o.Fleet, "keys"),
		fmt.Errorf("the policy lists the key %s: %s", public, strings.Join(slices.Compact(seen), "; "))).
		WithHint("copy the file that `modelfleet key rotate audit` made, audit-N.key, into %s: a running coordinator takes it up within a minute. A key elsewhere is named with -audit-key", filepath.Join(h.o.Fleet, "keys"))
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
	done := "it is put right"
	if t.Ignored {
		done = "no keeper of root signed it, and it is ignored"
	}
	h.events.Publish(api.Event{At: now, Kind: "alarm", Subject: t.Key, Text: "the bucket was tampered with: " + t.String() + "; " + done + ", find who writes there"})
	return nil
}

// compareRow looks whether a member's row speaks of the log that this coordinator
// keeps. msg is the row as it was signed: the evidence.
func (h *house) compareRow(id fleet.MemberID, row telemetry.Row, msg []byte) {
	ctx := context.Background() // a row is compared whoever brought it, and whether or not they wait
	if row.Log.IsZero() {
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
	s.Ours = h.audit.Head().Note
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
