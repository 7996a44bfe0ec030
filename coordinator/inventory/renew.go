package inventory

import (
	"context"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Check says whether the holder of a certificate may still act as the member it
// names. It notes that the member's newest certificate was seen in use.
func (v *Inventory) Check(ctx context.Context, id ca.Identity) (store.Member, error) {
	const op = "authenticate member"
	m, ok := v.Member(id.ID)
	switch {
	case !ok || m.Facts.Kind != id.Kind:
		return m, fault.Newf(fault.Denied, op, string(id.ID), "it is not enrolled here").
			WithHint("enrol it with a join token")
	case m.Revoked:
		return m, fault.Newf(fault.Denied, op, string(id.ID), "its identity was revoked").
			WithHint("enrol it anew, under another id")
	case m.Locked != "":
		return m, fault.Newf(fault.Denied, op, string(id.ID), "its identity is locked: %s", m.Locked).
			WithHint("find the copy, revoke this id and enrol the real member anew")
	}
	if id.Generation == m.Generation && !m.Confirmed {
		return m, v.confirm(ctx, id)
	}
	return m, nil
}

func (v *Inventory) confirm(ctx context.Context, id ca.Identity) error {
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id.ID)
	if !ok || m.Generation != id.Generation || m.Confirmed {
		return nil
	}
	m.Confirmed = true
	if err := v.store.SaveMember(ctx, m); err != nil {
		return err
	}
	return v.put(m)
}

// Renew gives the holder of an identity a fresh certificate, on the same key or
// a new one. The generation is the one its certificate carries; the previous one
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
	if !ok || m.Revoked || m.Locked != "" {
		return Enrolled{}, fault.Newf(fault.Denied, op, string(id.ID), "its identity is locked, revoked or unknown")
	}
	lost := id.Generation+1 == m.Generation && !m.Confirmed
	if id.Generation != m.Generation && !lost {
		return Enrolled{}, v.lock(ctx, m, id.Generation, now)
	}
	req := api.EnrolRequest{Member: m.Facts.ID}
	fresh, err := newMember(req, store.Token{Token: api.Token{Kind: m.Facts.Kind, Group: m.Facts.Group}}, pub, now)
	if err != nil {
		return Enrolled{}, err
	}
	if fresh.KeyID != m.KeyID {
		return Enrolled{}, fault.Newf(fault.Invalid, op, string(id.ID), "the request is for another key").
			WithHint("renewal keeps the key: rows are known by it; to change it, enrol anew")
	}
	m.Generation++
	m.Confirmed = false
	if addr, err := CheckAddr(r.GossipAddr); err == nil && addr != "" {
		m.GossipAddr = addr
	}
	cert, expires, err := v.ca.Issue(ca.Identity{Kind: m.Facts.Kind, ID: m.Facts.ID, Generation: m.Generation}, pub, now)
	if err != nil {
		return Enrolled{}, err
	}
	m.Expires = expires
	note := audit.Note{
		At: now, Actor: string(id.ID), Action: audit.MemberRenewed, Subject: string(id.ID),
		Reason: fmt.Sprintf("certificate of generation %d, until %s", m.Generation, expires.UTC().Format(time.RFC3339)),
	}
	if err := v.store.SaveMember(ctx, m, note); err != nil {
		return Enrolled{}, err
	}
	if err := v.put(m); err != nil {
		return Enrolled{}, err
	}
	v.log.Info("certificate renewed", "device", id.ID, "generation", m.Generation, "expires", expires)
	return Enrolled{Member: m, Certificate: cert, Cell: v.CellOf(m)}, nil
}

// lock locks an identity that was shown with a stale generation, and returns
// the refusal. The caller holds enrolling.
func (v *Inventory) lock(ctx context.Context, m store.Member, generation uint64, now time.Time) error {
	m.Locked = fmt.Sprintf("a certificate of generation %d was shown after one of generation %d was in use: the identity was copied", generation, m.Generation)
	note := audit.Note{At: now, Actor: audit.Coordinator, Action: audit.MemberLocked, Subject: string(m.Facts.ID), Reason: m.Locked}
	if err := v.store.SaveMember(ctx, m, note); err != nil {
		return err
	}
	if err := v.put(m); err != nil {
		return err
	}
	v.log.Error("member locked", "device", m.Facts.ID, "reason", m.Locked)
	v.changed(m)
	return fault.Newf(fault.Denied, "renew certificate", string(m.Facts.ID), "its identity is locked: %s", m.Locked).
		WithHint("find the copy, revoke this id and enrol the real member anew")
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
	m.Revoked = true
	note := audit.Note{At: now, Actor: by, Action: audit.MemberRevoked, Subject: string(id), Reason: reason}
	if err := v.store.SaveMember(ctx, m, note); err != nil {
		return err
	}
	if err := v.put(m); err != nil {
		return err
	}
	v.log.Warn("member revoked", "device", id, "by", by, "reason", reason)
	v.changed(m)
	return nil
}
