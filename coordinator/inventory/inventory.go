// Package inventory knows who is in the fleet: members with their labels, keys
// and certificates, and the gossip cells they belong to. Everything is held in
// memory for the loop and written through to the store.
//
// A member enrols once, by a join token, and from then on renews. Each renewal
// carries the generation of the certificate in use. An identity that shows an
// old one was copied: it is locked, and both holders have to be looked at. Where a
// certificate is good for nothing any more, expired or of a device CA that was
// removed, its holder comes back by the key that is known of it.
//
//	token ─▶ Enrol ─▶ (pending ─▶ Approve ─▶) member ─▶ Renew ... ─▶ Comeback
//	                                            │ a stale certificate
//	                                            ▼
//	                                         locked ─▶ Unlock, or Revoke
package inventory

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/refusal"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Store is what the inventory needs of the store.
type Store interface {
	store.Members
	store.Waiting
	store.Cells
	Token(ctx context.Context, id string) (store.Token, error)
	Append(ctx context.Context, notes ...audit.Note) error
	// AuditNewest is the newest entry of an action about a subject; see [audit.Store].
	AuditNewest(ctx context.Context, action, subject string) (index uint64, leaf []byte, err error)
}

// Options are what an inventory needs.
type Options struct {
	Store  Store
	CA     *ca.CA
	Logger *slog.Logger
	// CellGrace is how long everyone in a cell is given to get a new key before it
	// is used; default [CellGrace].
	CellGrace time.Duration
	// Role is the AWS role that signed a request, for the key with the fingerprint;
	// iam.Verifier is one. Nil: no function may join by its role.
	Role func(ctx context.Context, r api.SignedRequest, fingerprint string) (arn string, err error)
	// Alarm is told what a person should look at; nil: nobody.
	Alarm func(subject fleet.MemberID, text string)
}

// Inventory knows the members. It is safe for concurrent use.
type Inventory struct {
	store Store
	ca    *ca.CA
	log   *slog.Logger
	grace time.Duration
	o     Options

	secret   [32]byte // of the challenges; a restart makes those that are out void
	refusals refusal.Log

	enrolling sync.Mutex                       // one enrolment or renewal at a time, so that memory and store agree
	paces     map[fleet.MemberID]*rate.Limiter // of certificates; guarded by enrolling
	contested map[fleet.MemberID]bool          // whose hardware another claimed, and that was said; guarded by enrolling
	behind    bool                             // the store is older than certificates are, and that was said; guarded by enrolling

	mu      sync.RWMutex // guards the following
	members map[fleet.MemberID]store.Member
	keys    map[telemetry.KeyID]known
	named   map[telemetry.Prefix]fleet.MemberID // as rows name other members
	pending map[fleet.MemberID]store.Pending
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
	if o.Alarm == nil {
		o.Alarm = func(fleet.MemberID, string) {}
	}
	v := &Inventory{
		o: o, store: o.Store, ca: o.CA, log: o.Logger, grace: cmp.Or(o.CellGrace, CellGrace),
		members: map[fleet.MemberID]store.Member{}, keys: map[telemetry.KeyID]known{}, named: map[telemetry.Prefix]fleet.MemberID{},
		pending: map[fleet.MemberID]store.Pending{}, cells: map[string]store.Cell{}, seeds: map[string][]string{},
		changed: func(store.Member) {}, paces: map[fleet.MemberID]*rate.Limiter{}, contested: map[fleet.MemberID]bool{},
	}
	if _, err := rand.Read(v.secret[:]); err != nil {
		return nil, fault.New(fault.Internal, "make secret", "", err)
	}
	members, err := o.Store.Members(ctx)
	if err != nil {
		return nil, err
	}
	cells, err := o.Store.Cells(ctx)
	if err != nil {
		return nil, err
	}
	pending, err := o.Store.Pending(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if err := v.put(m); err != nil {
			return nil, err
		}
	}
	for _, p := range pending {
		v.pending[p.Member] = p
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

// Authorities lists the device CAs that the policy knows, newest first.
func (v *Inventory) Authorities() []ca.Authority { return v.ca.Authorities() }

// Named is the member that a row of another one names.
func (v *Inventory) Named(p telemetry.Prefix) (fleet.MemberID, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	id, ok := v.named[p]
	return id, ok
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
