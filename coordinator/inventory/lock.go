package inventory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// lock locks an identity for which a stale certificate was shown, and returns the
// refusal. The caller holds enrolling.
func (v *Inventory) lock(ctx context.Context, op string, m store.Member, shown store.Shown, now time.Time) error {
	m.Locked = fmt.Sprintf("certificate %s of generation %d was shown after %s of generation %d was in use: the identity was copied",
		shown.Certificate.Short(), shown.Generation, m.Certificate.Short(), m.Generation)
	m.Shown = &shown
	note := audit.Note{At: now, Actor: audit.Coordinator, Action: audit.MemberLocked, Subject: string(m.Facts.ID), Reason: m.Locked}
	if err := v.save(ctx, m, note); err != nil {
		return err
	}
	v.log.Error("member locked", "device", m.Facts.ID, "reason", m.Locked)
	v.o.Alarm(m.Facts.ID, "locked: "+m.Locked)
	v.changed(m)
	return fault.Newf(fault.Denied, op, string(m.Facts.ID), "its identity is locked: %s", m.Locked).
		WithHint("%s", lockHint(m.Facts.ID))
}

// Unlock ends a lock once an operator knows which certificate is the real member's:
// the newest, or the stale one that was shown. No certificate given so far is good
// any more; the holder of that one comes back by its key, and whoever tries with
// another locks the identity again.
func (v *Inventory) Unlock(ctx context.Context, id fleet.MemberID, by string, r api.UnlockRequest, now time.Time) error {
	const op = "unlock member"
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id)
	switch {
	case !ok:
		return fault.Newf(fault.NotFound, op, string(id), "it is not enrolled")
	case m.Revoked:
		return fault.Newf(fault.Conflict, op, string(id), "its identity was revoked").WithHint("enrol it anew, under another id")
	case m.Locked == "":
		return fault.Newf(fault.Conflict, op, string(id), "it is not locked")
	case r.Reason == "":
		return fault.Newf(fault.Invalid, op, string(id), "no reason is given").WithHint("say what you found with --reason")
	}
	shown := m.Shown
	switch want := strings.ToLower(r.Certificate); {
	case len(want) < 8 && want != "":
		return fault.Newf(fault.Invalid, op, string(id), "%q is too short to name a certificate", r.Certificate).WithHint("give at least 8 digits")
	case strings.HasPrefix(m.Certificate.String(), want):
	case shown != nil && strings.HasPrefix(shown.Certificate.String(), want):
		m.Certificate = shown.Certificate
	default:
		return fault.Newf(fault.Invalid, op, string(id), "certificate %s is neither the one in use nor the one that was shown", clip(want)).
			WithHint("the lock names both: %s", m.Locked)
	}
	m.Locked, m.Shown = "", nil
	m.Generation++
	m.Floor, m.Previous, m.Comebacks, m.Confirmed, m.Readmit = m.Generation, fleet.Digest{}, 0, true, true
	note := audit.Note{
		At: now, Actor: by, Action: audit.MemberUnlocked, Subject: string(id), Reason: r.Reason,
		Detail: unlocking{m.Certificate, m.Floor},
	}
	if err := v.save(ctx, m, note); err != nil {
		return err
	}
	v.log.Warn("member unlocked", "device", id, "by", by, "reason", r.Reason, "certificate", m.Certificate.Short())
	v.changed(m)
	return nil
}
