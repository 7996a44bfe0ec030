package desk

import (
	"context"
	"time"

	"crypto/rand"
	"encoding/hex"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

const (
	defaultTTL = time.Hour
	maxTTL     = 365 * 24 * time.Hour
	maxUses    = 1_000_000
)

// CreateToken makes a join token.
func (d *Desk) CreateToken(ctx context.Context, by api.OperatorToken, r api.TokenRequest) (api.Token, error) {
	const op = "create token"
	if err := Allow(by, api.Operator, op); err != nil {
		return api.Token{}, err
	}
	now := d.o.Now().UTC()
	t, err := newToken(r, now)
	if err != nil {
		return api.Token{}, err
	}
	if err := d.restrict(&t, r); err != nil {
		return api.Token{}, err
	}
	if err := allowLabels(by, t, op); err != nil {
		return api.Token{}, err
	}
	join := trust.JoinToken{URL: d.o.URL, Root: fleet.DigestOf(d.o.Root), TLS: d.o.Pin, Group: t.Group, Expires: t.Expires}
	if join.ID, err = randomHex(8); err != nil {
		return api.Token{}, err
	}
	if _, err := rand.Read(join.Secret[:]); err != nil {
		return api.Token{}, fault.New(fault.Internal, op, "", err)
	}
	t.ID = join.ID
	text, err := join.Encode()
	if err != nil {
		return api.Token{}, err
	}
	kept := store.Token{Token: t, By: by.Name, SecretHash: fleet.DigestOf([]byte(join.SecretText()))}
	note := audit.Note{At: now, Actor: by.Name, Action: audit.TokenCreated, Subject: t.ID, Detail: t}
	if err := d.o.Store.AddToken(ctx, kept, note); err != nil {
		return api.Token{}, err
	}
	d.o.Logger.Info("join token created", "token", t.ID, "kind", t.Kind, "uses", t.Uses, "by", by.Name)
	t.Text = text
	return t, nil
}

func newToken(r api.TokenRequest, now time.Time) (api.Token, error) {
	const op = "create token"
	t := api.Token{Group: r.Group, Kind: r.Kind, Labels: r.Labels, Uses: r.Uses}
	if t.Group == "" {
		t.Group = fleet.DefaultGroup
	}
	if _, err := fleet.ParseGroup(string(t.Group)); err != nil {
		return t, err
	}
	if t.Kind == "" {
		t.Kind = fleet.Device
	}
	if t.Uses == 0 {
		t.Uses = 1
	}
	ttl := r.TTL.D()
	if ttl == 0 {
		ttl = defaultTTL
	}
	switch {
	case t.Group != fleet.DefaultGroup:
		return t, fault.Newf(fault.Invalid, op, string(t.Group), "this coordinator has the group %s only", fleet.DefaultGroup)
	case t.Kind != fleet.Device && t.Kind != fleet.Function:
		return t, fault.Newf(fault.Invalid, op, string(t.Kind), "want the kind device or function")
	case t.Uses < 1 || t.Uses > maxUses:
		return t, fault.Newf(fault.Invalid, op, "uses", "%d is not between 1 and %d", t.Uses, maxUses)
	case ttl < time.Second || ttl > maxTTL:
		return t, fault.Newf(fault.Invalid, op, "ttl", "%s is not between 1s and 8760h", ttl)
	}
	t.Expires = now.Add(ttl).Truncate(time.Second)
	return t, inventory.CheckLabels(t.Labels)
}

// Tokens lists the join tokens of an operator's scope.
func (d *Desk) Tokens(ctx context.Context, by api.OperatorToken) ([]api.Token, error) {
	ts, err := d.o.Store.Tokens(ctx)
	out := make([]api.Token, 0, len(ts))
	for _, t := range ts {
		if inScope(by, t) {
			out = append(out, t.Token)
		}
	}
	return out, err
}

// DeleteToken makes a join token worthless.
func (d *Desk) DeleteToken(ctx context.Context, by api.OperatorToken, id string) error {
	const op = "delete token"
	if err := Allow(by, api.Operator, op); err != nil {
		return err
	}
	t, err := d.o.Store.Token(ctx, id)
	if err != nil {
		return err
	}
	if err := allowLabels(by, t.Token, op); err != nil {
		return err
	}
	note := audit.Note{At: d.o.Now().UTC(), Actor: by.Name, Action: audit.TokenDeleted, Subject: id}
	return d.o.Store.DeleteToken(ctx, id, note)
}

// FunctionToken checks the text of a function's join token used as a bearer
// token, for calls that need no identity of one environment.
func (d *Desk) FunctionToken(ctx context.Context, text string) error {
	denied := fault.Newf(fault.Denied, "authenticate function", "", "the function token is expired or unknown").
		WithHint("make a new one with `modelfleet token create --kind function`")
	join, err := trust.ParseJoinToken(text)
	if err != nil {
		return denied
	}
	t, err := d.o.Store.Token(ctx, join.ID)
	if fault.Is(err, fault.NotFound) {
		return denied
	}
	if err != nil {
		return err
	}
	// One that asks for more than its secret lets nobody in by its text.
	if t.Kind != fleet.Function || len(t.IAM) > 0 || t.Approve || t.SecretHash != fleet.DigestOf([]byte(hex.EncodeToString(join.Secret[:]))) || !d.o.Now().Before(t.Expires) {
		return denied
	}
	return nil
}

// Revoke takes a member's identity away.
func (d *Desk) Revoke(ctx context.Context, by api.OperatorToken, id fleet.MemberID, reason string) error {
	const op = "revoke member"
	if err := Allow(by, api.Operator, op); err != nil {
		return err
	}
	if _, err := d.member(by, id, op); err != nil {
		return err
	}
	if err := d.o.Inventory.Revoke(ctx, id, by.Name, reason, d.o.Now().UTC()); err != nil {
		return err
	}
	d.o.Wake()
	return nil
}
