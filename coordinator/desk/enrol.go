package desk

import (
	"context"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/iam"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

// Pending lists the members that wait for approval in an operator's scope, and
// those that were denied it, oldest first.
func (d *Desk) Pending(_ context.Context, by api.OperatorToken) ([]api.PendingMember, error) {
	out := slices.DeleteFunc(d.o.Inventory.Pending(), func(p api.PendingMember) bool { return !by.Scope.HasMember(factsOf(p)) })
	return out, nil
}

func factsOf(p api.PendingMember) fleet.Facts {
	return fleet.Facts{ID: p.Member, Kind: p.Kind, Group: p.Group, Labels: p.Labels}
}

// Approve lets a member in that waits.
func (d *Desk) Approve(ctx context.Context, by api.OperatorToken, id fleet.MemberID, r api.ApprovalRequest) error {
	return d.answer(ctx, by, id, true, r)
}

// Deny keeps a member out that waits.
func (d *Desk) Deny(ctx context.Context, by api.OperatorToken, id fleet.MemberID, r api.ApprovalRequest) error {
	return d.answer(ctx, by, id, false, r)
}

func (d *Desk) answer(ctx context.Context, by api.OperatorToken, id fleet.MemberID, yes bool, r api.ApprovalRequest) error {
	const op = "answer pending member"
	if err := Allow(by, api.Operator, op); err != nil {
		return err
	}
	for _, p := range d.o.Inventory.Pending() {
		if p.Member == id {
			if err := AllowMember(by, factsOf(p), op); err != nil {
				return err
			}
		}
	}
	return d.o.Inventory.Answer(ctx, id, by.Name, yes, r, d.o.Now().UTC())
}

// Unlock ends the lock of an identity that was copied.
func (d *Desk) Unlock(ctx context.Context, by api.OperatorToken, id fleet.MemberID, r api.UnlockRequest) error {
	if err := d.mayTell(by, id, "unlock member"); err != nil {
		return err
	}
	return d.o.Inventory.Unlock(ctx, id, by.Name, r, d.o.Now().UTC())
}

// AllowComeback lets a member come back by its key as often as a new one.
func (d *Desk) AllowComeback(ctx context.Context, by api.OperatorToken, id fleet.MemberID) error {
	if err := d.mayTell(by, id, "allow comeback"); err != nil {
		return err
	}
	return d.o.Inventory.AllowComeback(ctx, id, by.Name, d.o.Now().UTC())
}

func (d *Desk) mayTell(by api.OperatorToken, id fleet.MemberID, op string) error {
	if err := Allow(by, api.Operator, op); err != nil {
		return err
	}
	_, err := d.member(by, id, op)
	return err
}

// maxHardware bounds the list of a token.
const maxHardware = 10_000

// restrict reads whom else a token asks for. Without a number of uses there are as
// many as machines.
func (d *Desk) restrict(t *api.Token, r api.TokenRequest) error {
	const op = "create token"
	if len(r.Hardware) > maxHardware {
		return fault.Newf(fault.Invalid, op, "hardware", "there are %d machines, at most %d are kept", len(r.Hardware), maxHardware)
	}
	root := fleet.DigestOf(d.o.Root)
	for _, name := range r.Hardware {
		digest, err := fleet.ParseDigest(name)
		if err != nil {
			kind, value, ok := strings.Cut(name, ":")
			if !ok || value == "" || !slices.Contains([]string{"uuid", "serial", "machine"}, kind) {
				return fault.Newf(fault.Invalid, op, "hardware", "%.80q is neither 64 hex digits nor uuid:, serial: or machine: and a name", name).
					WithHint("`modelfleet-agent hardware` on the device prints them")
			}
			digest = identity.HardwareDigest(root, name)
		}
		if !slices.Contains(t.Hardware, digest) {
			t.Hardware = append(t.Hardware, digest)
		}
	}
	t.Approve, t.IAM = r.Approve, r.IAM
	if len(t.Hardware) > 0 && t.Kind != fleet.Device {
		return fault.Newf(fault.Invalid, op, "hardware", "a function has no hardware of its own").WithHint("use --iam for functions")
	}
	if len(t.IAM) > 0 && t.Kind != fleet.Function {
		return fault.Newf(fault.Invalid, op, "iam", "a device has no AWS role").WithHint("say --kind function")
	}
	for _, p := range t.IAM {
		if err := iam.CheckPattern(p); err != nil {
			return err
		}
	}
	if r.Uses == 0 && len(t.Hardware) > 0 {
		t.Uses = len(t.Hardware)
	}
	return nil
}

// certificateOf is what is remembered of a member's newest certificate.
func certificateOf(m store.Member) api.CertificateInfo {
	return api.CertificateInfo{
		Generation: m.Generation, Fingerprint: m.Certificate, Expires: m.Expires, Issuer: m.Issuer, Comebacks: m.Comebacks, Hardware: m.Hardware,
	}
}

// deviceCAs lists the device CAs with how many members rely on each.
func (d *Desk) deviceCAs() []api.DeviceCAInfo {
	relying := map[fleet.Digest]int{}
	now := d.o.Now()
	for _, m := range d.o.Inventory.Members() {
		if !m.Revoked && now.Before(m.Expires) {
			relying[m.Issuer]++
		}
	}
	out := []api.DeviceCAInfo{}
	for _, a := range d.o.Inventory.Authorities() {
		out = append(out, api.DeviceCAInfo{Fingerprint: a.Fingerprint, Expires: a.Expires, Members: relying[a.Fingerprint], Issues: a.Issues})
	}
	return out
}
