package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// catchUp takes over a certificate of a later generation than the store knows. Each
// is in the store before it is given out, so that the store was restored from an
// older backup: the certificate, which our CA signed for the member's own key, knows
// better. A copy that has one of the same or an earlier generation locks
// the identity as ever, when either of them renews. Somebody who has both the
// device CA's key and the member's can make such a certificate too, which is why a
// person is told. What the audit log, which comes back from the bucket, says of the
// identity holds: it is no way out of a revocation, a lock or an unlocking that the
// backup is older than. The caller holds enrolling and has verified id and its key.
func (v *Inventory) catchUp(ctx context.Context, id ca.Identity, now time.Time) (store.Member, error) {
	m, ok := v.Member(id.ID)
	if err := usable("authenticate member", m, ok); err != nil || id.Generation <= m.Generation {
		return m, err
	}
	note := audit.Note{
		At: now, Actor: audit.Coordinator, Action: audit.MemberCaughtUp, Subject: string(id.ID),
		Reason: fmt.Sprintf("it has a certificate of generation %d, the store knew of %d: the store was restored from a backup", id.Generation, m.Generation),
	}
	m.Generation, m.Certificate, m.Previous = id.Generation, id.Certificate, fleet.Digest{}
	m.Expires, m.Issuer = id.Expires, id.Issuer
	m.Confirmed, m.Readmit = true, false
	if err := v.recall(ctx, &m); err != nil {
		return m, err
	}
	if id.Generation < m.Floor {
		m.Locked = fmt.Sprintf("certificate %s of generation %d was shown after a backup was restored; it was replaced when the identity was unlocked", id.Certificate.Short(), id.Generation)
	}
	if m.Revoked {
		if err := v.rekey(ctx, m.Cell, audit.Coordinator, "member "+string(id.ID)+" is revoked", now); err != nil {
			return m, err
		}
	}
	if err := v.save(ctx, m, note); err != nil {
		return m, err
	}
	v.log.Warn("store caught up with a certificate", "device", id.ID, "generation", m.Generation)
	if !v.behind { // once: it is so for every member that renewed since the backup
		v.behind = true
		v.o.Alarm(id.ID, note.Reason+"; if nobody restored one, the device CA's key is stolen: modelfleet key rotate device-ca --now")
	}
	v.changed(m)
	return m, usable("authenticate member", m, true)
}

// recall has a member be what the audit log says and the store forgot: revoked,
// locked, or unlocked since which certificate. What it says from before the member
// enrolled last is over.
func (v *Inventory) recall(ctx context.Context, m *store.Member) error {
	newest := func(action string) (at uint64, e ledger.Entry, err error) {
		at, leaf, err := v.store.AuditNewest(ctx, action, string(m.Facts.ID))
		if fault.Is(err, fault.NotFound) {
			return 0, e, nil
		}
		if err == nil {
			e, err = ledger.ParseEntry(leaf)
		}
		return at + 1, e, err
	}
	enrolled, _, err := newest(audit.MemberEnrolled)
	if err != nil {
		return err
	}
	revoked, _, err := newest(audit.MemberRevoked)
	if err != nil {
		return err
	}
	locked, lock, err := newest(audit.MemberLocked)
	if err != nil {
		return err
	}
	unlocked, unlock, err := newest(audit.MemberUnlocked)
	if err != nil {
		return err
	}
	if unlocked > enrolled {
		var d unlocking
		if err := json.Unmarshal(unlock.Detail, &d); err != nil {
			return fault.New(fault.Internal, "read audit log", string(m.Facts.ID), err)
		}
		m.Floor = max(m.Floor, d.Floor)
	}
	if locked > max(enrolled, unlocked) {
		m.Locked = lock.Reason
	}
	m.Revoked = m.Revoked || revoked > enrolled
	return nil
}

// unlocking is the detail of a [audit.MemberUnlocked] entry.
type unlocking struct {
	Certificate fleet.Digest `json:"certificate"` // the real member's
	Floor       uint64       `json:"floor"`       // lower generations are refused
}
