// Package inventory knows who is in the fleet: members with their labels, keys
// and certificates, and the gossip cells they belong to. Everything is held in
// memory for the loop and written through to the store.
//
// A member enrols once, by a join token, and from then on renews. Each renewal
// carries the generation of the certificate in use. An identity that shows an
// old one was copied: it is locked, and both holders have to be looked at.
package inventory

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Store is what the inventory needs of the store.
type Store interface {
	store.Members
	store.Cells
	Token(ctx context.Context, id string) (store.Token, error)
}

// Options are what an inventory needs.
type Options struct {
	Store  Store
	CA     *ca.CA
	Logger *slog.Logger
}

// Inventory knows the members. It is safe for concurrent use.
type Inventory struct {
	store Store
	ca    *ca.CA
	log   *slog.Logger

	enrolling sync.Mutex // one enrolment or renewal at a time, so that memory and store agree

	mu      sync.RWMutex // guards the following
	members map[fleet.MemberID]store.Member
	keys    map[telemetry.KeyID]known
	named   map[telemetry.Prefix]fleet.MemberID // as rows name other members
	cells   map[string]store.Cell
	seeds   map[string][]string // by cell, besides the members'
	version uint64
	changed func(store.Member)
}

// known is a member's key, ready to verify with.
type known struct {
	id  fleet.MemberID
	pub *ecdsa.PublicKey
}

// New reads the inventory from the store.
func New(ctx context.Context, o Options) (*Inventory, error) {
	v := &Inventory{
		store: o.Store, ca: o.CA, log: o.Logger,
		members: map[fleet.MemberID]store.Member{}, keys: map[telemetry.KeyID]known{}, named: map[telemetry.Prefix]fleet.MemberID{}, cells: map[string]store.Cell{}, seeds: map[string][]string{},
		changed: func(store.Member) {},
	}
	members, err := o.Store.Members(ctx)
	if err != nil {
		return nil, err
	}
	cells, err := o.Store.Cells(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if err := v.put(m); err != nil {
			return nil, err
		}
	}
	for _, c := range cells {
		v.cells[c.ID] = c
	}
	return v, nil
}

// OnChange has fn called, from the caller's goroutine, after a member was added
// or changed. Set it before anything is served.
func (v *Inventory) OnChange(fn func(store.Member)) { v.changed = fn }

// put adds m to memory.
func (v *Inventory) put(m store.Member) error {
	pub, err := x509.ParsePKIXPublicKey(m.PublicKey)
	key, ok := pub.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return fault.Newf(fault.Internal, "load member", string(m.Facts.ID), "its public key does not parse")
	}
	v.mu.Lock()
	v.members[m.Facts.ID] = m
	v.keys[m.KeyID] = known{m.Facts.ID, key}
	v.named[telemetry.MemberPrefix(m.Facts.ID)] = m.Facts.ID
	v.version++
	v.mu.Unlock()
	return nil
}

// Version changes whenever a member was added or changed.
func (v *Inventory) Version() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.version
}

// Members lists every member, by id.
func (v *Inventory) Members() []store.Member {
	v.mu.RLock()
	out := slices.Collect(maps.Values(v.members))
	v.mu.RUnlock()
	slices.SortFunc(out, func(a, b store.Member) int { return cmpID(a.Facts.ID, b.Facts.ID) })
	return out
}

func cmpID(a, b fleet.MemberID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Member is one member.
func (v *Inventory) Member(id fleet.MemberID) (store.Member, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	m, ok := v.members[id]
	return m, ok
}

// ByKey finds the member that signs with a key, and the key.
func (v *Inventory) ByKey(k telemetry.KeyID) (store.Member, *ecdsa.PublicKey, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n, ok := v.keys[k]
	if !ok {
		return store.Member{}, nil, false
	}
	return v.members[n.id], n.pub, true
}

// Named is the member that a row of another one names.
func (v *Inventory) Named(p telemetry.Prefix) (fleet.MemberID, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	id, ok := v.named[p]
	return id, ok
}

// Enrolled is what a member gets when it joins or renews.
type Enrolled struct {
	Member      store.Member
	Certificate []byte
	Cell        api.Cell
}

// Enrol takes a member in by its join token.
func (v *Inventory) Enrol(ctx context.Context, r api.EnrolRequest, now time.Time) (Enrolled, error) {
	const op = "enrol"
	pub, err := v.ca.CheckCSR(r.CSR)
	if err != nil {
		return Enrolled{}, err
	}
	t, err := v.checkToken(ctx, r, now)
	if err != nil {
		return Enrolled{}, err
	}
	m, err := newMember(r, t, pub, now)
	if err != nil {
		return Enrolled{}, err
	}
	if m.Facts.ID == audit.Coordinator { // in a cell and in the audit log it would pass for it
		return Enrolled{}, fault.Newf(fault.Invalid, op, string(m.Facts.ID), "the name is the coordinator's own").
			WithHint("give the member another id")
	}
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	old, again := v.Member(m.Facts.ID)
	if again { // an answer that was lost: same facts, same cell, next generation
		old.Generation++
		old.Confirmed = false
		old.Token = m.Token
		if !bytes.Equal(old.PublicKey, m.PublicKey) {
			return Enrolled{}, fault.Newf(fault.Conflict, op, string(m.Facts.ID), "the member id is taken").
				WithHint("give the member another id, or revoke the one that has it")
		}
		m = old
	} else if m.Cell, err = v.assignCell(ctx, m); err != nil {
		return Enrolled{}, err
	}
	cert, expires, err := v.ca.Issue(ca.Identity{Kind: m.Facts.Kind, ID: m.Facts.ID, Generation: m.Generation}, pub, now)
	if err != nil {
		return Enrolled{}, err
	}
	m.Expires = expires
	note := audit.Note{
		At: now, Actor: string(m.Facts.ID), Action: audit.MemberEnrolled, Subject: string(m.Facts.ID),
		Reason: "joined by token " + t.ID, Detail: map[string]any{"facts": m.Facts, "cell": m.Cell, "key": m.KeyID.String(), "generation": m.Generation},
	}
	if err := v.store.Enrol(ctx, m, now, note); err != nil {
		return Enrolled{}, err
	}
	if err := v.put(m); err != nil {
		return Enrolled{}, err
	}
	v.log.Info("member enrolled", "device", m.Facts.ID, "kind", m.Facts.Kind, "cell", m.Cell, "token", t.ID)
	v.changed(m)
	return Enrolled{Member: m, Certificate: cert, Cell: v.CellOf(m)}, nil
}

// checkToken compares the secret. Uses and expiry are the store's to check, in
// the transaction that uses one up.
func (v *Inventory) checkToken(ctx context.Context, r api.EnrolRequest, now time.Time) (store.Token, error) {
	denied := fault.Newf(fault.Denied, "enrol", string(r.Member), "the join token is spent, expired or unknown").
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
		return t, fault.Newf(fault.Denied, "enrol", string(r.Member), "the join token is for a %s, not a %s", t.Kind, r.Kind).
			WithHint("make one with `modelfleet token create --kind %s`", r.Kind)
	}
	return t, nil
}

// newMember makes a member of a request. Labels of the token win over the
// member's own.
func newMember(r api.EnrolRequest, t store.Token, pub *ecdsa.PublicKey, now time.Time) (store.Member, error) {
	id, err := fleet.ParseMemberID(string(r.Member))
	if err != nil {
		return store.Member{}, err
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
		PublicKey: der, KeyID: key, Generation: 1, Token: t.ID,
	}, nil
}

// clip bounds a text that is only shown.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return s
}

// maxLabels bounds a member's labels.
const maxLabels = 32

// CheckLabels refuses labels that selectors could not name, or that are given.
func CheckLabels(l fleet.Labels) error {
	if len(l) > maxLabels {
		return fault.Newf(fault.Invalid, "read labels", "", "there are %d, at most %d are kept", len(l), maxLabels)
	}
	for k, val := range l {
		if k == fleet.LabelID || k == fleet.LabelKind {
			return fault.Newf(fault.Invalid, "read labels", k, "the label is given by modelfleet and cannot be set")
		}
		term := k + "=" + val
		sel, err := fleet.ParseSelector(term)
		if err == nil && (strings.Contains(term, ",") || sel.String() != term) {
			err = errors.New("a name or value has a character that selectors use")
		}
		if err != nil {
			return fault.New(fault.Invalid, "read labels", term, err)
		}
	}
	return nil
}
