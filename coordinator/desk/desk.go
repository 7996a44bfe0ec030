// Package desk is the operators' service: everything that can be seen of the
// fleet and everything that people may tell it, in the types of pkg/api. The
// HTTP API and the dashboard are two doors to it.
//
// Reading needs no more than memory and the store. Telling is writing down: a
// command is stored with its audit entry, and the loop, woken, acts on it in its
// next turn. The desk decides nothing about rollouts itself.
package desk

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Options are what a desk needs.
type Options struct {
	Fleet     string
	Version   string       // of the coordinator
	URL       string       // advertised in join tokens
	Pin       fleet.Digest // of the listener's key, in join tokens
	Root      []byte       // root.json that members pin by its digest
	Store     store.Store
	Inventory *inventory.Inventory
	Intake    *intake.Intake
	Publisher *publish.Publisher
	Events    *Events
	Issuer    *oidc.Issuer // that people sign in at; nil: there is none
	Wake      func()       // the loop; must not block
	Logger    *slog.Logger
	Now       func() time.Time // default time.Now

	Session time.Duration // how long a sign-in lasts; default [DefaultSession]
	Idle    time.Duration // after which a browser is signed out; default [DefaultIdle]
}

// Desk is the service. It is safe for concurrent use.
type Desk struct {
	o Options

	commanding sync.RWMutex // held for reading while a command is taken, for writing while an operator goes

	mu      sync.RWMutex        // guards the following
	catalog map[content][]known // newest first
	rolls   map[telemetry.Prefix]fleet.RolloutID
	refs    map[fleet.RolloutID]string // the releases of rollouts
	rolled  map[string]time.Time       // when a release's newest rollout began
	teams   map[string]fleet.Team      // by the releases' refs
}

// New returns a desk that knows what the store holds.
func New(ctx context.Context, o Options) (*Desk, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Session, o.Idle = cmp.Or(o.Session, DefaultSession), cmp.Or(o.Idle, DefaultIdle)
	d := &Desk{o: o, rolls: map[telemetry.Prefix]fleet.RolloutID{}, refs: map[fleet.RolloutID]string{}, rolled: map[string]time.Time{}}
	rolls, err := o.Store.Rollouts(ctx, false)
	if err != nil {
		return nil, err
	}
	for _, r := range rolls {
		d.took(r)
	}
	return d, d.reload(ctx)
}

// took knows a rollout from now on; the caller holds mu, or is alone.
func (d *Desk) took(r store.Rollout) {
	ref := r.Release.Ref()
	d.rolls[telemetry.RolloutPrefix(r.ID)] = r.ID
	d.refs[r.ID] = ref
	if r.Started.After(d.rolled[ref]) {
		d.rolled[ref] = r.Started
	}
}

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return "", fault.New(fault.Internal, "make secret", "", err)
	}
	return hex.EncodeToString(b), nil
}

// Audit lists entries above after, oldest first; a negative limit asks for the
// newest -limit.
func (d *Desk) Audit(ctx context.Context, by api.OperatorToken, after uint64, limit int) ([]api.AuditEntry, error) {
	const most = 1000
	if err := AllowWhole(by, "read audit log"); err != nil {
		return nil, err
	}
	if limit < 0 {
		return d.o.Store.AuditTail(ctx, min(-limit, most))
	}
	if limit == 0 || limit > most {
		limit = most
	}
	return d.o.Store.Audit(ctx, after, limit)
}

// Subscribe delivers what happens, as far as it is of an operator's scope, until
// ctx ends. A slow reader loses events.
func (d *Desk) Subscribe(ctx context.Context, by api.OperatorToken) <-chan api.Event {
	if by.Scope.IsZero() {
		return d.o.Events.Subscribe(ctx, nil)
	}
	return d.o.Events.Subscribe(ctx, func(e api.Event) bool { return d.concerns(by.Scope, e) })
}

// concerns reports whether an event is of a scope. What it is about is known by
// its subject; what is not known stays untold.
func (d *Desk) concerns(s api.Scope, e api.Event) bool {
	if m, ok := d.o.Inventory.Member(fleet.MemberID(e.Subject)); ok && (e.Kind == "member" || e.Kind == "alarm") {
		return s.HasMember(m.Facts)
	}
	if e.Kind == "directive" {
		return true
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	subject := e.Subject
	if id, ok := d.rolls[telemetry.RolloutPrefix(fleet.RolloutID(subject))]; ok {
		subject = d.refs[id]
	}
	team, ok := d.teams[subject]
	model, _, _ := strings.Cut(subject, "@")
	return ok && s.HasModel(team, fleet.ModelName(model))
}

// Root is the root.json that new members pin: the one whose digest is in join
// tokens.
func (d *Desk) Root() []byte { return d.o.Root }
