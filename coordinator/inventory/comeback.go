package inventory

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/refusal"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	// MaxComebacks is how often a member may come back before an operator allows
	// more. One that its device CA was taken from under does not count.
	MaxComebacks = 3

	challengeLife = time.Minute
	challengeSize = 8 + 16 + sha256.Size // expiry, chance, MAC
)

// Comeback lets a member that the inventory knows have a certificate again when its
// own is good for nothing any more. It proves its key on a challenge; which
// certificate it had says whether it is the one that was given the newest. Until
// challenged, the answer is a challenge and nothing else.
func (v *Inventory) Comeback(ctx context.Context, r api.ComebackRequest, from string, now time.Time) (Enrolled, api.ComebackReply, error) {
	from = refusal.Source(from)
	if err := v.notBlocked("come back", r.Member, from, now); err != nil {
		return Enrolled{}, api.ComebackReply{}, err
	}
	m, pub, ok := v.memberKey(r.Member)
	if !ok {
		err := fault.Newf(fault.Denied, "come back", clip(string(r.Member)), "it is not enrolled here").
			WithHint("enrol it with a join token: modelfleet token create")
		return Enrolled{}, api.ComebackReply{}, v.refused(ctx, r.Member, from, err, now)
	}
	if len(r.Challenge) == 0 {
		expires := now.Add(challengeLife)
		return Enrolled{}, api.ComebackReply{Challenge: v.challenge(m, expires), Expires: expires.UTC()}, nil
	}
	err := v.checkComeback(r, m, pub, now)
	var e Enrolled
	if err == nil {
		e, err = v.comeback(ctx, r, pub, now)
	}
	return e, api.ComebackReply{}, v.refused(ctx, r.Member, from, err, now)
}

func (v *Inventory) memberKey(id fleet.MemberID) (store.Member, *ecdsa.PublicKey, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	m, ok := v.members[id]
	if !ok {
		return m, nil, false
	}
	return m, v.keys[m.KeyID].pub, true
}

// challenge is for a member in its present generation: what it answered once is
// void with the certificate that it got.
func (v *Inventory) challenge(m store.Member, expires time.Time) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixNano()))
	var chance [16]byte
	rand.Read(chance[:]) // never fails
	b = append(b, chance[:]...)
	return append(b, v.mac(m, b)...)
}

func (v *Inventory) mac(m store.Member, b []byte) []byte {
	h := hmac.New(sha256.New, v.secret[:])
	h.Write(b)
	h.Write(m.KeyID[:])
	h.Write(binary.BigEndian.AppendUint64(nil, m.Generation))
	h.Write([]byte(m.Facts.ID))
	return h.Sum(nil)
}

// checkComeback checks that the holder of the member's key answers a challenge that
// is ours and young.
func (v *Inventory) checkComeback(r api.ComebackRequest, m store.Member, pub *ecdsa.PublicKey, now time.Time) error {
	const op = "come back"
	stale := len(r.Challenge) != challengeSize
	if !stale {
		body := r.Challenge[:challengeSize-sha256.Size]
		expires := time.Unix(0, int64(binary.BigEndian.Uint64(body)))
		stale = !hmac.Equal(v.mac(m, body), r.Challenge[len(body):]) || now.After(expires)
	}
	if stale {
		return fault.Newf(fault.Denied, op, string(m.Facts.ID), "the challenge is not one of ours, too old, or was answered before").
			WithHint("ask for a new one")
	}
	digest := r.Digest()
	if !ecdsa.VerifyASN1(pub, digest[:], r.Signature) {
		return fault.Newf(fault.Denied, op, string(m.Facts.ID), "the answer is not signed by the key it enrolled with").
			WithHint("enrol it anew under another id, or restore its identity folder")
	}
	key, err := v.ca.CheckCSR(r.CSR)
	if err != nil {
		return err
	}
	if !key.Equal(pub) {
		return fault.Newf(fault.Invalid, op, string(m.Facts.ID), "the request is for another key").
			WithHint("coming back keeps the key; to change it, enrol anew")
	}
	return nil
}

// comeback decides for a holder of the key. One that had another certificate than
// the newest is a copy, or the real member after a copy renewed: the identity is
// locked, as it is at a renewal.
func (v *Inventory) comeback(ctx context.Context, r api.ComebackRequest, pub *ecdsa.PublicKey, now time.Time) (Enrolled, error) {
	const op = "come back"
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(r.Member)
	if err := usable(op, m, ok); err != nil {
		return Enrolled{}, err
	}
	if id, key, err := v.ca.Gave(r.Certificate); err == nil && id.ID == m.Facts.ID && id.Generation > m.Generation && key.Equal(pub) {
		if m, err = v.catchUp(ctx, id, now); err != nil {
			return Enrolled{}, err
		}
	}
	had := fleet.DigestOf(r.Certificate)
	newest, before := had == m.Certificate, had == m.Previous && !m.Confirmed
	if !newest && !before {
		return Enrolled{}, v.lock(ctx, op, m, store.Shown{Generation: r.Generation, Certificate: had}, now)
	}
	removed := !slices.ContainsFunc(v.ca.Authorities(), func(a ca.Authority) bool { return a.Fingerprint == m.Issuer })
	if newest && !removed && !m.Readmit && now.Before(m.Expires) {
		return Enrolled{}, fault.Newf(fault.Conflict, op, string(m.Facts.ID), "its certificate is good until %s", m.Expires.Format(time.RFC3339)).
			WithHint("renew it: POST /v1/renew")
	}
	why := "its certificate expired at " + m.Expires.Format(time.RFC3339)
	switch {
	case removed:
		why = "its device CA was removed from the policy"
	case before && now.Before(m.Expires): // the answer was lost, and counted
	case m.Comebacks >= MaxComebacks:
		return Enrolled{}, fault.Newf(fault.Denied, op, string(m.Facts.ID), "it came back %d times, an operator has to allow more", m.Comebacks).
			WithHint("see that it is the real one, then `modelfleet members allow-comeback %s`", m.Facts.ID)
	default:
		m.Comebacks++
		if m.Readmit {
			why = "it was unlocked"
		}
	}
	issued, err := v.issue(&m, pub, before, now)
	if err != nil {
		return Enrolled{}, err
	}
	note := audit.Note{
		At: now, Actor: string(m.Facts.ID), Action: audit.MemberReturned, Subject: string(m.Facts.ID),
		Reason: fmt.Sprintf("came back by its key (%d of %d): %s; certificate of generation %d", m.Comebacks, MaxComebacks, why, m.Generation),
		Detail: issuanceOf(m),
	}
	if err := v.save(ctx, m, note); err != nil {
		return Enrolled{}, err
	}
	v.log.Warn("member came back", "device", m.Facts.ID, "why", why, "count", m.Comebacks, "generation", m.Generation)
	if !removed { // with the device CA of a whole fleet, nobody wants an alarm for each
		v.o.Alarm(m.Facts.ID, note.Reason)
	}
	v.changed(m)
	return v.answer(m, issued), nil
}

// AllowComeback lets a member come back as often as a new one.
func (v *Inventory) AllowComeback(ctx context.Context, id fleet.MemberID, by string, now time.Time) error {
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id)
	if !ok {
		return fault.Newf(fault.NotFound, "allow comeback", string(id), "it is not enrolled")
	}
	if m.Comebacks == 0 {
		return nil
	}
	note := audit.Note{At: now, Actor: by, Action: audit.MemberAllowed, Subject: string(id), Reason: fmt.Sprintf("may come back %d times again", MaxComebacks)}
	m.Comebacks = 0
	return v.save(ctx, m, note)
}
