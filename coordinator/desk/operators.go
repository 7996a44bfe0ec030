package desk

import (
	"context"
	"crypto/subtle"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// The beginnings of what people show: an operator's token, and the session of
// one who signed in.
const (
	operatorPrefix = "mfo1."
	sessionPrefix  = "mfs1."
	secretBytes    = 24 // 192 bits: not to be guessed, whatever the rate
)

// usedEvery is how exactly it is known when a token or session was last used.
const usedEvery = time.Minute

// Authenticate says whose token it is: an operator's, or that of a session that
// commands use. Tokens are found by their hash, so that neither a copy of the
// store nor the time an answer takes gives one away.
func (d *Desk) Authenticate(ctx context.Context, token string) (api.OperatorToken, error) {
	switch {
	case strings.HasPrefix(token, operatorPrefix):
		o, err := d.operatorByHash(ctx, fleet.DigestOf([]byte(token)))
		if err != nil {
			return api.OperatorToken{}, err
		}
		return operatorInfo(o), nil
	case strings.HasPrefix(token, sessionPrefix):
		return d.session(ctx, token, store.CommandSession, true)
	}
	return api.OperatorToken{}, unknownToken()
}

func unknownToken() error {
	return fault.Newf(fault.Denied, "authenticate", "", "the token is not an operator's").
		WithHint("use the token of your context file, sign in with `modelfleet login`, or ask an admin for a token")
}

// operatorByHash finds the operator of a token that is still good.
func (d *Desk) operatorByHash(ctx context.Context, hash fleet.Digest) (store.Operator, error) {
	o, err := d.o.Store.OperatorByToken(ctx, hash)
	if fault.Is(err, fault.NotFound) {
		return o, unknownToken()
	}
	if err != nil {
		return o, err
	}
	if subtle.ConstantTimeCompare(hash[:], o.TokenHash[:]) != 1 {
		return o, unknownToken()
	}
	now := d.o.Now().UTC()
	if !o.Expires.IsZero() && !now.Before(o.Expires) {
		return o, fault.Newf(fault.Denied, "authenticate", o.Name, "the token ended at %s", o.Expires.Format(time.RFC3339)).
			WithHint("have an admin give you a new one: `modelfleet operator rotate %s`", o.Name)
	}
	if now.Sub(o.Used) >= usedEvery {
		// Nobody is turned away since this could not be written down.
		if err := d.o.Store.TouchOperator(ctx, o.Name, now); err != nil {
			d.o.Logger.Warn("use of a token is not written down", "operator", o.Name, "err", err)
		}
	}
	return o, nil
}

func operatorInfo(o store.Operator) api.OperatorToken {
	as := o.As
	if len(as) == 0 {
		as = []string{o.Name}
	}
	return api.OperatorToken{Name: o.Name, Role: o.Role, Scope: o.Scope, Created: o.Created, By: o.By, Expires: o.Expires, Used: o.Used, As: as}
}

// CreateOperator makes an operator and its token.
func (d *Desk) CreateOperator(ctx context.Context, by api.OperatorToken, r api.OperatorRequest) (api.OperatorToken, error) {
	const op = "create operator"
	if err := checkOperator(by, r); err != nil {
		return api.OperatorToken{}, err
	}
	now := d.o.Now().UTC()
	expires, err := expiry(op, r.Name, r.TTL.D(), now)
	if err != nil {
		return api.OperatorToken{}, err
	}
	text, hash, err := newSecret(operatorPrefix)
	if err != nil {
		return api.OperatorToken{}, err
	}
	o := store.Operator{Name: r.Name, Role: r.Role, Scope: r.Scope, TokenHash: hash, Created: now, By: by.Name, Expires: expires, As: madeBy(r.Name, by)}
	reason := "role " + string(r.Role)
	if !r.Scope.IsZero() {
		reason += ", scope " + r.Scope.String()
	}
	out := operatorInfo(o)
	note := audit.Note{At: now, Actor: by.Name, Action: audit.OperatorCreated, Subject: o.Name, Reason: reason, Detail: out}
	if err := d.o.Store.AddOperator(ctx, o, note); err != nil {
		return api.OperatorToken{}, err
	}
	d.o.Logger.Info("operator created", "operator", o.Name, "role", o.Role, "scope", o.Scope.String(), "by", by.Name)
	out.Text = text
	return out, nil
}

// checkOperator says what is wrong with a wish for an operator.
func checkOperator(by api.OperatorToken, r api.OperatorRequest) error {
	const op = "create operator"
	if err := Allow(by, api.Admin, op); err != nil {
		return err
	}
	if _, err := fleet.ParseMemberID(r.Name); err != nil {
		return fault.New(fault.Invalid, op, r.Name, err)
	}
	switch {
	case r.Name == audit.Coordinator: // its entries in the audit log would pass for decisions of the coordinator
		return fault.Newf(fault.Invalid, op, r.Name, "the name is the coordinator's own")
	case rank(r.Role) == 0:
		return fault.Newf(fault.Invalid, op, r.Name, "there is no role %q", r.Role).WithHint("use viewer, operator, approver or admin")
	case r.Role == api.Admin && !r.Scope.IsZero():
		return fault.Newf(fault.Invalid, op, r.Name, "an admin has no scope: who makes operators can make one without").
			WithHint("give the role approver, which does everything else")
	}
	return r.Scope.Check()
}

// madeBy are the identities of a new operator. Who signed in stays who they are
// by any token they make; the holder of a token is somebody else than who made
// it, and yet who made it has seen it.
func madeBy(name string, by api.OperatorToken) []string {
	if by.Session {
		return by.As
	}
	if by.Name == audit.Coordinator {
		return []string{name}
	}
	return append([]string{name}, by.As...)
}

const maxTokenLife = 10 * 365 * 24 * time.Hour

func expiry(op, name string, ttl time.Duration, now time.Time) (time.Time, error) {
	switch {
	case ttl == 0:
		return time.Time{}, nil
	case ttl < time.Second || ttl > maxTokenLife:
		return time.Time{}, fault.Newf(fault.Invalid, op, name, "the life %s is not between 1s and %s", ttl, maxTokenLife)
	}
	return now.Add(ttl).Truncate(time.Second), nil
}

// newSecret is a new text to show, and what is kept of it.
func newSecret(prefix string) (text string, hash fleet.Digest, err error) {
	secret, err := randomHex(secretBytes)
	text = prefix + secret
	return text, fleet.DigestOf([]byte(text)), err
}

// RotateOperator gives an operator a new token; the old one, and every session
// begun with it, is over at once. Everyone may rotate their own, without making it
// last longer.
func (d *Desk) RotateOperator(ctx context.Context, by api.OperatorToken, name string, r api.RotateRequest) (api.OperatorToken, error) {
	const op = "rotate operator token"
	if name != by.Name || by.Session {
		if err := Allow(by, api.Admin, op); err != nil {
			return api.OperatorToken{}, err
		}
	}
	os, err := d.o.Store.Operators(ctx)
	if err != nil {
		return api.OperatorToken{}, err
	}
	for _, o := range os {
		if o.Name != name {
			continue
		}
		now := d.o.Now().UTC()
		var text string
		if text, o.TokenHash, err = newSecret(operatorPrefix); err != nil {
			return api.OperatorToken{}, err
		}
		if o.Expires, err = renewed(by, o, r.TTL.D(), now); err != nil {
			return api.OperatorToken{}, err
		}
		if name != by.Name { // who gives out the new text has seen it
			o.As = madeBy(name, by)
		}
		note := audit.Note{At: now, Actor: by.Name, Action: audit.OperatorRotated, Subject: name}
		if err := d.o.Store.SaveOperator(ctx, o, note); err != nil {
			return api.OperatorToken{}, err
		}
		d.o.Logger.Info("operator token rotated", "operator", name, "by", by.Name)
		out := operatorInfo(o)
		out.Text = text
		return out, nil
	}
	return api.OperatorToken{}, noOperator(op, name)
}

// renewed is when a rotated token ends. Only an admin makes it later than it was.
func renewed(by api.OperatorToken, o store.Operator, ttl time.Duration, now time.Time) (time.Time, error) {
	const op = "rotate operator token"
	expires, err := expiry(op, o.Name, ttl, now)
	if err != nil || o.Expires.IsZero() || rank(by.Role) >= rank(api.Admin) {
		return expires, err
	}
	if ttl == 0 {
		return o.Expires, nil
	}
	if expires.After(o.Expires) {
		return expires, fault.Newf(fault.Denied, op, o.Name, "the token ends at %s, and only an admin makes that later", o.Expires.Format(time.RFC3339)).
			WithHint("leave out the life to keep that end, or have an admin do it: `modelfleet operator rotate %s`", o.Name)
	}
	return expires, nil
}

func noOperator(op, name string) error {
	return fault.Newf(fault.NotFound, op, name, "there is none of that name").WithHint("`modelfleet operator list` shows who there is")
}

// Operators lists the holders of tokens, and the people who are signed in.
func (d *Desk) Operators(ctx context.Context, by api.OperatorToken) ([]api.OperatorToken, error) {
	if err := AllowWhole(by, "list operators"); err != nil {
		return nil, err
	}
	return d.everyone(ctx)
}

// still is an operator as they stand now, whatever was so when they were asked who
// they are: a command of somebody who was deleted meanwhile does not count.
func (d *Desk) still(ctx context.Context, by api.OperatorToken, op string) (api.OperatorToken, error) {
	all, err := d.o.Store.Operators(ctx)
	if err != nil {
		return by, err
	}
	for _, o := range all {
		if o.Name == by.Name && !by.Session {
			return operatorInfo(o), nil
		}
	}
	sessions, err := d.o.Store.Sessions(ctx)
	if err != nil {
		return by, err
	}
	for _, s := range sessions {
		if by.Session && s.Claims != nil && s.Name == by.Name && slices.Equal([]string{s.Claims.Identity()}, by.As) && d.on(s) {
			if p, err := d.person(*s.Claims); err == nil && p.Role == by.Role && p.Scope.String() == by.Scope.String() { // one that may what they were found to may
				return by, nil
			}
		}
	}
	return by, fault.Newf(fault.Denied, op, by.Name, "%s is no operator any more", by.Name).WithHint("have somebody else do it: `modelfleet operator list` shows who there is")
}

func (d *Desk) everyone(ctx context.Context) ([]api.OperatorToken, error) {
	os, err := d.o.Store.Operators(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.OperatorToken, 0, len(os))
	for _, o := range os {
		out = append(out, operatorInfo(o))
	}
	people, err := d.people(ctx)
	return append(out, people...), err
}

// DeleteOperator makes an operator's token worthless, or ends every session of a
// person who signed in. What they approved and is still waited for does not
// count any more.
func (d *Desk) DeleteOperator(ctx context.Context, by api.OperatorToken, name string) error {
	const op = "delete operator"
	if err := Allow(by, api.Admin, op); err != nil {
		return err
	}
	if name == by.Name {
		return fault.Newf(fault.Invalid, op, name, "an admin cannot delete itself").
			WithHint("have another admin do it: the last one must stay")
	}
	d.commanding.Lock() // no approval comes between the end of those that are there and the operator's
	defer d.commanding.Unlock()
	ops, err := d.everyone(ctx)
	if err != nil {
		return err
	}
	for _, o := range ops {
		if o.Name != name {
			continue
		}
		if err := d.disown(ctx, by, o, name+" is no operator any more", func(store.Rollout) (bool, error) { return true, nil }); err != nil {
			return err
		}
		note := audit.Note{At: d.o.Now().UTC(), Actor: by.Name, Action: audit.OperatorDeleted, Subject: name}
		if o.Session {
			return d.endSessions(ctx, func(s store.Session) bool { return s.Name == name }, by.Name+" ended it", note)
		}
		return d.o.Store.DeleteOperator(ctx, name, note)
	}
	return noOperator(op, name)
}

// disown takes back what an operator approved in those of the rollouts under way that
// are meant. The caller holds commanding.
func (d *Desk) disown(ctx context.Context, by, gone api.OperatorToken, why string, meant func(store.Rollout) (bool, error)) error {
	live, err := d.o.Store.Rollouts(ctx, true)
	if err != nil {
		return err
	}
	for _, r := range live {
		is, err := meant(r)
		if err != nil {
			return err
		}
		if !is {
			continue
		}
		now := d.o.Now().UTC()
		c := store.Command{Rollout: r.ID, Command: api.Disown, By: by.Name, As: gone.As, Reason: why, At: now}
		note := audit.Note{At: now, Actor: by.Name, Action: audit.RolloutCommanded, Subject: string(r.ID), Reason: asked(string(c.Command), c.Reason), Detail: map[string]any{"command": c.Command, "operator": gone.Name}}
		if err := d.o.Store.AddCommand(ctx, c, note); err != nil {
			return err
		}
	}
	if len(live) > 0 {
		d.o.Wake()
	}
	return nil
}
