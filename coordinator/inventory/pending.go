package inventory

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

// askAgain is when a member that waits should ask next.
const askAgain = 5 * time.Second

// wait says whether a member has to wait for approval, and has it wait when it asks
// for the first time. Waiting takes a use of the token, so that who holds one
// cannot fill the list; a denial gives it back, to whoever asks with another key. One
// that was approved joins as what the operator was shown, whatever it says now. The
// caller holds enrolling.
func (v *Inventory) wait(ctx context.Context, r api.EnrolRequest, m *store.Member, from string, now time.Time) (*api.Pending, error) {
	const op = "enrol"
	id := m.Facts.ID
	p, known := v.pendingOf(id)
	if known && bytes.Equal(p.PublicKey, m.PublicKey) && p.Token == m.Token {
		switch p.State {
		case api.Approved:
			if m.Hardware != p.Hardware {
				return nil, fault.Newf(fault.Conflict, op, string(id), "another machine was approved than the one that asks now").
					WithHint("take the approval back, `modelfleet members deny %s --reason ...`, and have it ask with a new join token", id)
			}
			m.Facts.Labels = p.Labels
			return nil, nil
		case api.Refused:
			return nil, fault.Newf(fault.Denied, op, string(id), "%s denied it: %s", p.By, p.Reason).
				WithHint("ask the operator; it may ask again with a new join token")
		}
		return &api.Pending{Fingerprint: p.Fingerprint, After: fleet.Duration(askAgain)}, nil
	}
	if known && p.State != api.Refused {
		return nil, fault.Newf(fault.Conflict, op, string(id), "another device waits for approval under this id").
			WithHint("give the member another id, or deny the one that waits: modelfleet members pending")
	}
	pub, err := v.ca.CheckCSR(r.CSR)
	if err != nil {
		return nil, err
	}
	name, err := identity.Fingerprint(pub)
	if err != nil {
		return nil, err
	}
	p = store.Pending{
		PendingMember: api.PendingMember{
			Member: id, Fingerprint: name, Kind: m.Facts.Kind, Group: m.Facts.Group, Labels: m.Facts.Labels, Hardware: m.Hardware,
			Agent: m.Facts.Agent, Platform: m.Facts.Platform, Token: m.Token, From: from, Since: now.UTC().Truncate(time.Second), State: api.Waiting,
		},
		PublicKey: m.PublicKey, KeyID: m.KeyID,
	}
	note := audit.Note{At: now, Actor: string(id), Action: audit.MemberPending, Subject: string(id), Reason: "asks to join by token " + m.Token, Detail: p.PendingMember}
	if err := v.store.AddPending(ctx, p, now, note); err != nil {
		return nil, err
	}
	v.setPending(p)
	v.log.Info("member waits for approval", "device", id, "fingerprint", name, "token", m.Token, "from", from)
	v.o.Alarm(id, "waits for approval, its key is "+name)
	return &api.Pending{Fingerprint: name, After: fleet.Duration(askAgain)}, nil
}

func (v *Inventory) pendingOf(id fleet.MemberID) (store.Pending, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	p, ok := v.pending[id]
	return p, ok
}

func (v *Inventory) setPending(p store.Pending) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending[p.Member] = p
}

func (v *Inventory) forgetPending(id fleet.MemberID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p, ok := v.pending[id]; ok && p.State == api.Approved {
		delete(v.pending, id)
	}
}

// Pending lists those who wait for approval or were denied it, oldest first.
func (v *Inventory) Pending() []api.PendingMember {
	v.mu.RLock()
	out := make([]api.PendingMember, 0, len(v.pending))
	for _, p := range v.pending {
		out = append(out, p.PendingMember)
	}
	v.mu.RUnlock()
	slices.SortFunc(out, func(a, b api.PendingMember) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return cmpID(a.Member, b.Member)
	})
	return out
}

// Answer approves a member that waits, or denies it, also after an approval that it
// has not made use of. The fingerprint names the key
// that is meant, so that a device that took the id meanwhile is not let in.
func (v *Inventory) Answer(ctx context.Context, id fleet.MemberID, by string, yes bool, r api.ApprovalRequest, now time.Time) error {
	op, state, action := "approve member", api.Approved, audit.MemberApproved
	if !yes {
		op, state, action = "deny member", api.Refused, audit.MemberDenied
	}
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	p, ok := v.pendingOf(id)
	switch {
	case !ok:
		return fault.Newf(fault.NotFound, op, string(id), "it does not wait for approval").
			WithHint("list those who do with `modelfleet members pending`")
	case r.Fingerprint != p.Fingerprint:
		return fault.Newf(fault.Conflict, op, string(id), "the one that waits has the key %s, not %q", p.Fingerprint, clip(r.Fingerprint)).
			WithHint("compare with what the device prints, and look again: modelfleet members pending")
	case p.State == state:
		return nil
	case !yes && r.Reason == "":
		return fault.Newf(fault.Invalid, op, string(id), "no reason is given").WithHint("say why with --reason")
	case p.State == api.Refused:
		return fault.Newf(fault.Conflict, op, string(id), "%s has %s it", p.By, p.State).
			WithHint("it may ask again with a new join token")
	}
	p.State, p.By, p.Reason = state, by, r.Reason
	note := audit.Note{At: now, Actor: by, Action: action, Subject: string(id), Reason: r.Reason, Detail: map[string]string{"fingerprint": p.Fingerprint, "token": p.Token}}
	if err := v.store.SavePending(ctx, p, note); err != nil {
		return err
	}
	v.setPending(p)
	v.log.Info("pending member answered", "device", id, "state", state, "by", by)
	return nil
}
