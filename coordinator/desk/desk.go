// Package desk is the operators' service: everything that can be seen of the
// fleet and everything that people may tell it, in the types of pkg/api. The
// HTTP API and the dashboard are two doors to it.
//
// Reading needs no more than memory and the store. Telling is writing down: a
// command is stored with its audit entry, and the loop, woken, acts on it in its
// next turn. The desk decides nothing about rollouts itself.
package desk

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
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
	URL       string       // advertised in join tokens
	Pin       fleet.Digest // of the listener's key, in join tokens
	Root      []byte       // root.json that members pin by its digest
	Store     store.Store
	Inventory *inventory.Inventory
	Intake    *intake.Intake
	Publisher *publish.Publisher
	Events    *Events
	Wake      func() // the loop; must not block
	Logger    *slog.Logger
	Now       func() time.Time // default time.Now
}

// Desk is the service. It is safe for concurrent use.
type Desk struct {
	o Options

	mu      sync.RWMutex // guards the following
	catalog map[telemetry.Prefix]known
	rolls   map[telemetry.Prefix]fleet.RolloutID
}

// known is a release that a prefix in a row stands for.
type known struct {
	ref  string
	root fleet.Digest
}

// New returns a desk that knows what the store holds.
func New(ctx context.Context, o Options) (*Desk, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Desk{o: o, rolls: map[telemetry.Prefix]fleet.RolloutID{}}
	rolls, err := o.Store.Rollouts(ctx, false)
	if err != nil {
		return nil, err
	}
	for _, r := range rolls {
		d.rolls[telemetry.RolloutPrefix(r.ID)] = r.ID
	}
	return d, d.reload(ctx)
}

// reload reads the catalog of releases.
func (d *Desk) reload(ctx context.Context) error {
	rs, err := d.o.Store.Releases(ctx)
	if err != nil {
		return err
	}
	catalog := map[telemetry.Prefix]known{}
	for _, r := range rs {
		for _, v := range r.Variants {
			catalog[telemetry.ReleasePrefix(v.Root)] = known{r.Ref(), v.Root}
		}
	}
	d.mu.Lock()
	d.catalog = catalog
	d.mu.Unlock()
	return nil
}

// RefOf is the release that a prefix stands for, or the prefix in hex.
func (d *Desk) RefOf(p telemetry.Prefix) string {
	if p.IsZero() {
		return ""
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if k, ok := d.catalog[p]; ok {
		return k.ref
	}
	return p.String()
}

// rank orders the roles.
func rank(r api.Role) int {
	switch r {
	case api.Viewer:
		return 1
	case api.Operator:
		return 2
	case api.Approver:
		return 3
	case api.Admin:
		return 4
	}
	return 0
}

// Allow says whether an operator has at least the role need.
func Allow(by api.OperatorToken, need api.Role, op string) error {
	if rank(by.Role) >= rank(need) && rank(by.Role) > 0 {
		return nil
	}
	return fault.Newf(fault.Denied, op, by.Name, "it needs the role %s, %s has %s", need, by.Name, by.Role).
		WithHint("ask an admin for a token with the role %s", need)
}

// operatorPrefix begins the text of every operator token.
const operatorPrefix = "mfo1."

// Authenticate says whose token it is.
func (d *Desk) Authenticate(ctx context.Context, token string) (api.OperatorToken, error) {
	denied := fault.Newf(fault.Denied, "authenticate", "", "the token is not an operator's").
		WithHint("use the token of your context file, or ask an admin for one")
	if !strings.HasPrefix(token, operatorPrefix) {
		return api.OperatorToken{}, denied
	}
	hash := fleet.DigestOf([]byte(token))
	o, err := d.o.Store.OperatorByToken(ctx, hash)
	if fault.Is(err, fault.NotFound) {
		return api.OperatorToken{}, denied
	}
	if err != nil {
		return api.OperatorToken{}, err
	}
	if subtle.ConstantTimeCompare(hash[:], o.TokenHash[:]) != 1 {
		return api.OperatorToken{}, denied
	}
	return api.OperatorToken{Name: o.Name, Role: o.Role}, nil
}

// CreateOperator makes an operator and its token.
func (d *Desk) CreateOperator(ctx context.Context, by api.OperatorToken, r api.OperatorRequest) (api.OperatorToken, error) {
	const op = "create operator"
	if err := Allow(by, api.Admin, op); err != nil {
		return api.OperatorToken{}, err
	}
	name, err := fleet.ParseMemberID(r.Name)
	if err != nil {
		return api.OperatorToken{}, fault.New(fault.Invalid, op, r.Name, err)
	}
	if name == audit.Coordinator { // its entries in the audit log would pass for decisions of the coordinator
		return api.OperatorToken{}, fault.Newf(fault.Invalid, op, r.Name, "the name is the coordinator's own")
	}
	if rank(r.Role) == 0 {
		return api.OperatorToken{}, fault.Newf(fault.Invalid, op, r.Name, "there is no role %q", r.Role).
			WithHint("use viewer, operator, approver or admin")
	}
	secret, err := randomHex(24)
	if err != nil {
		return api.OperatorToken{}, err
	}
	now := d.o.Now().UTC()
	o := store.Operator{Name: string(name), Role: r.Role, TokenHash: fleet.DigestOf([]byte(operatorPrefix + secret)), Created: now}
	note := audit.Note{At: now, Actor: by.Name, Action: audit.OperatorCreated, Subject: o.Name, Reason: "role " + string(r.Role)}
	if err := d.o.Store.AddOperator(ctx, o, note); err != nil {
		return api.OperatorToken{}, err
	}
	d.o.Logger.Info("operator created", "operator", o.Name, "role", o.Role, "by", by.Name)
	return api.OperatorToken{Name: o.Name, Role: o.Role, Text: operatorPrefix + secret}, nil
}

// Operators lists them.
func (d *Desk) Operators(ctx context.Context) ([]api.OperatorToken, error) {
	os, err := d.o.Store.Operators(ctx)
	out := make([]api.OperatorToken, len(os))
	for i, o := range os {
		out[i] = api.OperatorToken{Name: o.Name, Role: o.Role}
	}
	return out, err
}

// DeleteOperator makes an operator's token worthless.
func (d *Desk) DeleteOperator(ctx context.Context, by api.OperatorToken, name string) error {
	if err := Allow(by, api.Admin, "delete operator"); err != nil {
		return err
	}
	if name == by.Name {
		return fault.Newf(fault.Invalid, "delete operator", name, "an admin cannot delete itself").
			WithHint("have another admin do it: the last one must stay")
	}
	note := audit.Note{At: d.o.Now().UTC(), Actor: by.Name, Action: audit.OperatorDeleted, Subject: name}
	return d.o.Store.DeleteOperator(ctx, name, note)
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
func (d *Desk) Audit(ctx context.Context, after uint64, limit int) ([]api.AuditEntry, error) {
	const most = 1000
	if limit < 0 {
		return d.o.Store.AuditTail(ctx, min(-limit, most))
	}
	if limit == 0 || limit > most {
		limit = most
	}
	return d.o.Store.Audit(ctx, after, limit)
}

// Subscribe delivers what happens until ctx ends. A slow reader loses events.
func (d *Desk) Subscribe(ctx context.Context) <-chan api.Event { return d.o.Events.Subscribe(ctx) }

// Root is the root.json that new members pin: the one whose digest is in join
// tokens.
func (d *Desk) Root() []byte { return d.o.Root }
