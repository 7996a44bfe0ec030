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

// Restored has every member be what the audit log says and the store forgot, because
// it was put back to an older copy: revoked, locked, unlocked, or of a later
// certificate. Call it when the log was taken from the bucket, before anything is
// served: a copy of an identity then finds it locked, instead of being found again.
func (v *Inventory) Restored(ctx context.Context, now time.Time) error {
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	for _, was := range v.Members() {
		m := was
		if err := v.recall(ctx, &m); err != nil {
			return err
		}
		if m.Generation == was.Generation && m.Locked == was.Locked && m.Revoked == was.Revoked && m.Floor == was.Floor {
			continue
		}
		if m.Revoked && !was.Revoked {
			if err := v.rekey(ctx, m.Cell, audit.Coordinator, "member "+string(m.Facts.ID)+" is revoked", now); err != nil {
				return err
			}
		}
		note := audit.Note{
			At: now, Actor: audit.Coordinator, Action: audit.MemberCaughtUp, Subject: string(m.Facts.ID),
			Reason: fmt.Sprintf("the store was restored from a backup; the audit log says: generation %d, revoked %t, locked %t", m.Generation, m.Revoked, m.Locked != ""),
		}
		if err := v.save(ctx, m, note); err != nil {
			return err
		}
		v.log.Warn("member is as the audit log says", "device", m.Facts.ID, "generation", m.Generation, "revoked", m.Revoked, "locked", m.Locked != "")
		v.changed(m)
	}
	return nil
}

// recall has a member be what the audit log says and the store forgot. What it says
// from before the member enrolled last is over.
func (v *Inventory) recall(ctx context.Context, m *store.Member) error {
	said := func(detail any, actions ...string) (at uint64, reason string, err error) {
		var newest ledger.Entry
		for _, action := range actions {
			i, leaf, err := v.store.AuditNewest(ctx, action, string(m.Facts.ID))
			if fault.Is(err, fault.NotFound) || err == nil && i+1 <= at {
				continue
			}
			if err == nil {
				newest, err = ledger.ParseEntry(leaf)
			}
			if err != nil {
				return 0, "", err
			}
			at = i + 1
		}
		if len(newest.Detail) > 0 && detail != nil {
			if err := json.Unmarshal(newest.Detail, detail); err != nil {
				return 0, "", fault.New(fault.Internal, "read audit log", string(m.Facts.ID), err)
			}
		}
		return at, newest.Reason, nil
	}
	var given issuance
	var unlock unlocking
	enrolled, _, err := said(nil, audit.MemberEnrolled)
	if err != nil {
		return err
	}
	issued, _, err := said(&given, audit.MemberEnrolled, audit.MemberRenewed, audit.MemberReturned)
	if err != nil {
		return err
	}
	revoked, _, err := said(nil, audit.MemberRevoked)
	if err != nil {
		return err
	}
	locked, why, err := said(nil, audit.MemberLocked)
	if err != nil {
		return err
	}
	unlocked, _, err := said(&unlock, audit.MemberUnlocked)
	if err != nil {
		return err
	}
	given.take(m)
	if unlocked > enrolled {
		m.Floor = max(m.Floor, unlock.Floor)
		if unlocked > issued && unlock.Floor > m.Generation { // who holds that certificate is to come back
			m.Generation, m.Certificate, m.Previous, m.Confirmed, m.Readmit = unlock.Floor, unlock.Certificate, fleet.Digest{}, true, true
		}
	}
	if locked > max(enrolled, unlocked) {
		m.Locked = why
	}
	m.Revoked = m.Revoked || revoked > enrolled
	return nil
}

// issuance is the detail of an entry about a certificate that a member was given.
type issuance struct {
	Generation  uint64       `json:"generation"`
	Certificate fleet.Digest `json:"certificate,omitzero"`
	Previous    fleet.Digest `json:"previous,omitzero"`
	Issuer      fleet.Digest `json:"issuer,omitzero"`
	Expires     time.Time    `json:"expires,omitzero"`
}

func issuanceOf(m store.Member) issuance {
	return issuance{m.Generation, m.Certificate, m.Previous, m.Issuer, m.Expires.UTC()}
}

// take has a member be of that certificate, if it is a later one than is known. Whether
// the member ever got it is not known.
func (i issuance) take(m *store.Member) {
	if i.Generation <= m.Generation || i.Certificate.IsZero() {
		return
	}
	m.Generation, m.Certificate, m.Previous, m.Issuer, m.Expires = i.Generation, i.Certificate, i.Previous, i.Issuer, i.Expires
	m.Confirmed, m.Readmit = false, false
}

// unlocking is the detail of a [audit.MemberUnlocked] entry.
type unlocking struct {
	Certificate fleet.Digest `json:"certificate"` // the real member's
	Floor       uint64       `json:"floor"`       // lower generations are refused
}
