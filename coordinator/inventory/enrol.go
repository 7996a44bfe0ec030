package inventory

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/subtle"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/iam"
	"github.com/modelfleet/modelfleet/coordinator/refusal"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Enrolled is what a member gets when it joins, renews or comes back.
type Enrolled struct {
	Member      store.Member
	Certificate []byte
	Issuer      []byte // the device CA's certificate
	Cell        api.Cell
}

// Enrol takes a member in by its join token. from is the address that asks. When an
// operator has to approve it first, there is only the pending.
func (v *Inventory) Enrol(ctx context.Context, r api.EnrolRequest, from string, now time.Time) (Enrolled, *api.Pending, error) {
	from = refusal.Source(from)
	if err := v.notBlocked("enrol", r.Member, from, now); err != nil {
		return Enrolled{}, nil, err
	}
	e, pending, err := v.enrol(ctx, r, from, now)
	return e, pending, v.refused(ctx, r.Member, from, err, now)
}

// notBlocked refuses to look at what an address asks that was refused too often.
func (v *Inventory) notBlocked(op string, id fleet.MemberID, from string, now time.Time) error {
	if !v.refusals.Blocked(from, now) {
		return nil
	}
	return fault.Newf(fault.Transient, op, clip(string(id)), "more than %d attempts from %s were refused within a minute", refusal.PerMinute, from).
		WithHint("wait a minute")
}

// refused counts and audits an error that says no to somebody who is nobody yet.
func (v *Inventory) refused(ctx context.Context, id fleet.MemberID, from string, err error, now time.Time) error {
	if err == nil {
		return nil
	}
	switch fault.KindOf(err) {
	case fault.Denied, fault.Untrusted, fault.Conflict, fault.Invalid:
	default:
		return err
	}
	if notes := v.refusals.Note(from, clip(string(id)), err, now); len(notes) > 0 {
		v.log.Warn("member refused", "device", clip(string(id)), "from", from, "err", err)
		if aerr := v.store.Append(ctx, notes...); aerr != nil {
			v.log.Error("refusal not audited", "err", aerr)
		}
	}
	return err
}

// Settle writes down the sums of refusals whose time has come.
func (v *Inventory) Settle(ctx context.Context, now time.Time) error {
	notes := v.refusals.Due(now)
	if len(notes) == 0 {
		return nil
	}
	return v.store.Append(ctx, notes...)
}

func (v *Inventory) enrol(ctx context.Context, r api.EnrolRequest, from string, now time.Time) (out Enrolled, _ *api.Pending, err error) {
	pub, err := v.ca.CheckCSR(r.CSR)
	if err != nil {
		return out, nil, err
	}
	t, err := v.checkToken(ctx, r)
	if err != nil {
		return out, nil, err
	}
	m, err := newMember(r, t, pub, now)
	if err != nil {
		return out, nil, err
	}
	role, err := v.checkRole(ctx, r, t, pub)
	if err != nil {
		return out, nil, err
	}
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	if m.Hardware, err = v.checkHardware(r, t); err != nil {
		return out, nil, err
	}
	had, again := v.Member(m.Facts.ID)
	if again && (!bytes.Equal(had.PublicKey, m.PublicKey) || had.Revoked || had.Locked != "") {
		return out, nil, fault.Newf(fault.Conflict, "enrol", string(m.Facts.ID), "the member id is taken").
			WithHint("give the member another id, or revoke the one that has it")
	}
	if again && had.Readmit { // an operator said which holder of the key is the real one: a token says nothing of that
		return out, nil, fault.Newf(fault.Conflict, "enrol", string(m.Facts.ID), "its identity was unlocked, and waits for the real member to come back by its key").
			WithHint("an agent that has its identity folder does so by itself; if that is lost, revoke this id and enrol the member under another")
	}
	if t.Approve && !(again && had.Token == t.ID && !had.Confirmed) { // as when the answer was lost
		if waits, err := v.wait(ctx, r, &m, from, now); waits != nil || err != nil {
			return out, waits, err
		}
	}
	if again { // an answer that was lost: same facts, same cell, next generation
		had.Token = m.Token
		m = had
	} else if m.Cell, err = v.assignCell(ctx, m); err != nil {
		return out, nil, err
	}
	issued, err := v.issue(&m, pub, false, now)
	if err != nil {
		return out, nil, err
	}
	detail := enrolment{issuance: issuanceOf(m), Facts: m.Facts, Cell: m.Cell, Key: m.KeyID.String(), Role: role, Hardware: m.Hardware}
	note := audit.Note{
		At: now, Actor: string(m.Facts.ID), Action: audit.MemberEnrolled, Subject: string(m.Facts.ID),
		Reason: "joined by token " + t.ID, Detail: detail,
	}
	if err := v.store.Enrol(ctx, m, now, note); err != nil {
		return out, nil, err
	}
	v.forgetPending(m.Facts.ID)
	if err := v.put(m); err != nil {
		return out, nil, err
	}
	v.log.Info("member enrolled", "device", m.Facts.ID, "kind", m.Facts.Kind, "cell", m.Cell, "token", t.ID)
	v.changed(m)
	return v.answer(m, issued), nil, nil
}

// enrolment is the detail of an [audit.MemberEnrolled] entry.
type enrolment struct {
	issuance
	Facts    fleet.Facts  `json:"facts"`
	Cell     string       `json:"cell"`
	Key      string       `json:"key"`
	Role     string       `json:"role,omitempty"` // in AWS
	Hardware fleet.Digest `json:"hardware,omitzero"`
}

func (v *Inventory) answer(m store.Member, c ca.Issued) Enrolled {
	return Enrolled{Member: m, Certificate: c.DER, Issuer: c.Issuer, Cell: v.CellOf(m)}
}

// issue makes a certificate of the next generation and notes it. again makes up for
// an answer that was lost: the generation, and the certificate that the member
// has, stay what they are, however often that happens.
func (v *Inventory) issue(m *store.Member, pub *ecdsa.PublicKey, again bool, now time.Time) (ca.Issued, error) {
	if m.Generation > 0 && !v.pace(m.Facts.ID).AllowN(now, 1) { // a new one costs a use of its token
		return ca.Issued{}, fault.Newf(fault.Transient, "issue certificate", string(m.Facts.ID), "it was given %d of them in a short time", issueBurst).
			WithHint("it renews when it is time; if its agent asks in a loop, look at its log, or revoke it")
	}
	if !again {
		m.Generation++
		m.Previous = m.Certificate
	}
	issued, err := v.ca.Issue(ca.Identity{Kind: m.Facts.Kind, ID: m.Facts.ID, Generation: m.Generation}, pub, now)
	if err != nil {
		return issued, err
	}
	m.Certificate, m.Issuer, m.Expires = fleet.DigestOf(issued.DER), fleet.DigestOf(issued.Issuer), issued.Expires
	m.Confirmed, m.Readmit = false, false
	return issued, nil
}

// How many certificates a member is given: each is an entry of the audit log, which
// forgets nothing. In a certificate's life it needs one or two.
const (
	issueBurst   = 20
	issuesInLife = 100
)

// pace is a member's own. The caller holds enrolling.
func (v *Inventory) pace(id fleet.MemberID) *rate.Limiter {
	l := v.paces[id]
	if l == nil {
		l = rate.NewLimiter(rate.Every(v.ca.Lifetime()/issuesInLife), issueBurst)
		v.paces[id] = l
	}
	return l
}

// checkToken compares the secret. Uses and expiry are the store's to check, in
// the transaction that uses one up.
func (v *Inventory) checkToken(ctx context.Context, r api.EnrolRequest) (store.Token, error) {
	denied := fault.Newf(fault.Denied, "enrol", clip(string(r.Member)), "the join token is spent, expired or unknown").
		WithHint("make a new one with `modelfleet token create`")
	t, err := v.store.Token(ctx, r.TokenID)
	if fault.Is(err, fault.NotFound) {
		return t, denied
	}
	if err != nil {
		return t, err
	}
	hash := fleet.DigestOf([]byte(r.Secret))
	if subtle.ConstantTimeCompare(hash[:], t.SecretHash[:]) != 1 {
		return t, denied
	}
	if r.Kind != t.Kind {
		return t, fault.Newf(fault.Denied, "enrol", clip(string(r.Member)), "the join token is for a %s, not a %s", t.Kind, clip(string(r.Kind))).
			WithHint("make one with `modelfleet token create --kind %s`", clip(string(r.Kind)))
	}
	return t, nil
}

// checkRole has AWS say which role a function runs as, where the token asks for
// one.
func (v *Inventory) checkRole(ctx context.Context, r api.EnrolRequest, t store.Token, pub *ecdsa.PublicKey) (string, error) {
	if len(t.IAM) == 0 {
		return "", nil
	}
	const op = "enrol"
	if r.IAM == nil || v.o.Role == nil {
		return "", fault.Newf(fault.Denied, op, string(r.Member), "the join token is for functions with one of the roles %v, and none was proved", t.IAM).
			WithHint("is the function's AWS_ACCESS_KEY_ID in its environment?")
	}
	name, err := identity.Fingerprint(pub)
	if err != nil {
		return "", err
	}
	arn, err := v.o.Role(ctx, *r.IAM, name)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(t.IAM, func(pattern string) bool { return iam.Matches(pattern, arn) }) {
		return "", fault.Newf(fault.Denied, op, string(r.Member), "it runs as %s, the join token is for %v", arn, t.IAM).
			WithHint("make a token for that role: modelfleet token create --kind function --iam PATTERN")
	}
	return arn, nil
}

// maxHardware bounds what one machine is known by.
const maxHardware = 8

// checkHardware looks for the machine on the token's list. A machine that is listed
// is one member: its name, read off it, does not let another one in.
func (v *Inventory) checkHardware(r api.EnrolRequest, t store.Token) (fleet.Digest, error) {
	const op = "enrol"
	if len(r.Hardware) > maxHardware {
		return fleet.Digest{}, fault.Newf(fault.Invalid, op, string(r.Member), "it names %d digests of its hardware, more than %d", len(r.Hardware), maxHardware)
	}
	if len(t.Hardware) == 0 {
		if len(r.Hardware) == 0 {
			return fleet.Digest{}, nil
		}
		return r.Hardware[0], nil
	}
	at := slices.IndexFunc(r.Hardware, func(d fleet.Digest) bool { return slices.Contains(t.Hardware, d) })
	if at < 0 {
		return fleet.Digest{}, fault.Newf(fault.Denied, op, string(r.Member), "its hardware is not on the list of token %s", t.ID).
			WithHint("`modelfleet-agent hardware` on the device prints what --hardware wants")
	}
	found := r.Hardware[at]
	for _, m := range v.Members() {
		if m.Hardware == found && !m.Revoked && m.Facts.ID != r.Member {
			v.claimed(m, r.Member)
			return fleet.Digest{}, fault.Newf(fault.Conflict, op, string(r.Member), "its hardware has enrolled as %s", m.Facts.ID).
				WithHint("if this is the same machine, start the agent with -id %s; else `modelfleet members revoke %s --reason ...` gives the hardware free", m.Facts.ID, m.Facts.ID)
		}
	}
	return found, nil
}

// claimed tells people that two claim to be one listed machine, once for each holder:
// what a machine says of itself proves nothing, so the first may be the wrong one.
// The caller holds enrolling.
func (v *Inventory) claimed(holder store.Member, by fleet.MemberID) {
	if v.contested[holder.Facts.ID] {
		return
	}
	v.contested[holder.Facts.ID] = true
	v.o.Alarm(holder.Facts.ID, fmt.Sprintf("%s says that it is the machine which enrolled as %s: one of them is not the listed one; if it is %s, modelfleet members revoke %s --reason ...",
		by, holder.Facts.ID, holder.Facts.ID, holder.Facts.ID))
}

// newMember makes a member of a request. Labels of the token win over the
// member's own.
func newMember(r api.EnrolRequest, t store.Token, pub *ecdsa.PublicKey, now time.Time) (store.Member, error) {
	id, err := fleet.ParseMemberID(string(r.Member))
	if err != nil {
		return store.Member{}, err
	}
	if id == audit.Coordinator { // in a cell and in the audit log it would pass for it
		return store.Member{}, fault.Newf(fault.Invalid, "enrol", string(id), "the name is the coordinator's own").
			WithHint("give the member another id")
	}
	labels := fleet.Labels{}
	maps.Copy(labels, r.Labels)
	maps.Copy(labels, t.Labels)
	if err := CheckLabels(labels); err != nil {
		return store.Member{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return store.Member{}, fault.New(fault.Invalid, "enrol", string(id), err)
	}
	key, err := telemetry.KeyIDOf(pub)
	if err != nil {
		return store.Member{}, err
	}
	return store.Member{
		Facts: fleet.Facts{
			ID: id, Kind: t.Kind, Group: t.Group, Labels: labels,
			Enrolled: now.UTC().Truncate(time.Second), Agent: clip(r.Agent), Platform: clip(r.Platform),
		},
		PublicKey: der, KeyID: key, Token: t.ID,
	}, nil
}
