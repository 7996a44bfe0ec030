package inventory

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// usable says why an identity is not, whoever holds it.
func usable(op string, m store.Member, known bool) error {
	id := string(m.Facts.ID)
	switch {
	case !known:
		return fault.Newf(fault.Denied, op, id, "it is not enrolled here").
			WithHint("enrol it with a join token")
	case m.Revoked:
		return fault.Newf(fault.Denied, op, id, "its identity was revoked").
			WithHint("enrol it anew, under another id")
	case m.Locked != "":
		return fault.Newf(fault.Denied, op, id, "its identity is locked: %s", m.Locked).
			WithHint("%s", lockHint(m.Facts.ID))
	}
	return nil
}

func lockHint(id fleet.MemberID) string {
	return fmt.Sprintf("find the copy; then `modelfleet members unlock %s --certificate NAME --reason ...` if it is out of the world, else revoke this id and enrol the real member anew", id)
}

// CheckKey refuses a certificate for another key than the member enrolled with. The
// coordinator gives out none: somebody else has the device CA's key.
func (v *Inventory) CheckKey(id fleet.MemberID, pub *ecdsa.PublicKey) error {
	_, enrolled, ok := v.memberKey(id)
	if !ok || enrolled.Equal(pub) { // who is not known is Check's to refuse
		return nil
	}
	err := fault.Newf(fault.Denied, "authenticate member", string(id), "its certificate is for another key than it enrolled with").
		WithHint("the coordinator gave out no such certificate: the device CA's key was stolen; modelfleet key rotate device-ca --now")
	v.log.Error("certificate of a stolen device CA", "device", id, "err", err)
	v.o.Alarm(id, err.Error())
	return err
}

// Check says whether the holder of a certificate may still act as the member it
// names. It notes which of the member's newest certificates is in use.
func (v *Inventory) Check(ctx context.Context, id ca.Identity, now time.Time) (store.Member, error) {
	const op = "authenticate member"
	m, ok := v.Member(id.ID)
	if !ok {
		m.Facts.ID = id.ID
	}
	if err := usable(op, m, ok && m.Facts.Kind == id.Kind); err != nil {
		return m, err
	}
	if id.Generation > m.Generation {
		v.enrolling.Lock()
		defer v.enrolling.Unlock()
		var err error
		if m, err = v.catchUp(ctx, id, now); err != nil || id.Generation >= m.Floor {
			return m, err
		}
	}
	if id.Generation < m.Floor {
		return m, fault.Newf(fault.Untrusted, op, string(id.ID), "its certificate of generation %d was replaced when the identity was unlocked", id.Generation).
			WithHint("the real member comes back by its key: POST /v1/comeback; an agent does so by itself")
	}
	if id.Generation == m.Generation && (!m.Confirmed || id.Certificate != m.Certificate) {
		return m, v.confirm(ctx, id, now)
	}
	return m, nil
}

// confirm takes note of the first use of a generation's certificate. When answers
// were lost there is more than one of it, of which the member has one: another that
// is used as well is a copy's, which renewed in the same moment.
func (v *Inventory) confirm(ctx context.Context, id ca.Identity, now time.Time) error {
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id.ID)
	if !ok || m.Generation != id.Generation || m.Locked != "" {
		return nil // the next call sees it
	}
	if m.Confirmed && m.Certificate != id.Certificate {
		return v.lock(ctx, "authenticate member", m, store.Shown{Generation: id.Generation, Certificate: id.Certificate}, now)
	}
	if m.Confirmed {
		return nil
	}
	m.Confirmed, m.Certificate = true, id.Certificate
	return v.save(ctx, m)
}

// save writes a member down and then takes it over. The caller holds enrolling.
func (v *Inventory) save(ctx context.Context, m store.Member, notes ...audit.Note) error {
	if err := v.store.SaveMember(ctx, m, notes...); err != nil {
		return err
	}
	return v.put(m)
}

// Renew gives the holder of an identity a fresh certificate on the same key. The
// generation is the one its certificate carries; the previous one
// is good as long as nobody has used the newest, since answers get lost.
func (v *Inventory) Renew(ctx context.Context, id ca.Identity, r api.RenewRequest, now time.Time) (Enrolled, error) {
	const op = "renew certificate"
	if r.Generation != id.Generation {
		return Enrolled{}, fault.Newf(fault.Invalid, op, string(id.ID), "the request says generation %d, its certificate %d", r.Generation, id.Generation)
	}
	pub, err := v.ca.CheckCSR(r.CSR)
	if err != nil {
		return Enrolled{}, err
	}
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id.ID)
	if err := usable(op, m, ok); err != nil {
		return Enrolled{}, err
	}
	if id.Generation > m.Generation {
		if m, err = v.catchUp(ctx, id, now); err != nil {
			return Enrolled{}, err
		}
	}
	lost := id.Generation+1 == m.Generation && !m.Confirmed
	other := m.Confirmed && id.Certificate != m.Certificate
	if !lost && (id.Generation != m.Generation || other) {
		return Enrolled{}, v.lock(ctx, op, m, store.Shown{Generation: id.Generation, Certificate: id.Certificate}, now)
	}
	if _, known, _ := v.memberKey(m.Facts.ID); !known.Equal(pub) {
		return Enrolled{}, fault.Newf(fault.Invalid, op, string(id.ID), "the request is for another key").
			WithHint("renewal keeps the key: rows are known by it; to change it, enrol anew")
	}
	if addr, err := CheckAddr(r.GossipAddr); err == nil && addr != "" {
		m.GossipAddr = addr
	}
	issued, err := v.issue(&m, pub, lost, now)
	if err != nil {
		return Enrolled{}, err
	}
	note := audit.Note{
		At: now, Actor: string(id.ID), Action: audit.MemberRenewed, Subject: string(id.ID),
		Reason: fmt.Sprintf("certificate of generation %d, until %s", m.Generation, m.Expires.UTC().Format(time.RFC3339)),
		Detail: issuanceOf(m),
	}
	if err := v.save(ctx, m, note); err != nil {
		return Enrolled{}, err
	}
	v.log.Info("certificate renewed", "device", id.ID, "generation", m.Generation, "expires", m.Expires)
	return v.answer(m, issued), nil
}

// Revoke takes a member's identity away, for good.
func (v *Inventory) Revoke(ctx context.Context, id fleet.MemberID, by, reason string, now time.Time) error {
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id)
	if !ok {
		return fault.Newf(fault.NotFound, "revoke member", string(id), "it is not enrolled")
	}
	if m.Revoked {
		return nil
	}
	if reason == "" {
		return fault.Newf(fault.Invalid, "revoke member", string(id), "no reason is given").WithHint("say what happened with --reason")
	}
	// Its cell gets a key that it does not know. First, so that a crash in between
	// leaves nothing to be found: who asks again makes another.
	if err := v.rekey(ctx, m.Cell, by, "member "+string(id)+" is revoked", now); err != nil {
		return err
	}
	m.Revoked = true
	note := audit.Note{At: now, Actor: by, Action: audit.MemberRevoked, Subject: string(id), Reason: reason}
	if err := v.save(ctx, m, note); err != nil {
		return err
	}
	v.log.Warn("member revoked", "device", id, "by", by, "reason", reason)
	v.changed(m)
	return nil
}
