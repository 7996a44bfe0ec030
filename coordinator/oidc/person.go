package oidc

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// person checks the ID token of a token answer, and says who it is and what they
// may do. Rules 1 to 3 are the library's.
func (i *Issuer) person(ctx context.Context, p *provider, token *oauth2.Token, nonce string) (store.Person, error) {
	const op = "check ID token"
	deny := func(format string, args ...any) (store.Person, error) {
		return store.Person{}, fault.Newf(fault.Untrusted, op, i.c.Issuer, format, args...).
			WithHint("the issuer is set up for another client, or somebody is in between: ask whoever runs it")
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return deny("the answer has none")
	}
	// 1. Signed by a key of the issuer with an allowed algorithm. 2. Issuer and
	// audience are ours. 3. Neither expired nor of the future.
	id, err := p.verify.Verify(ctx, raw)
	if err != nil {
		if errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "fetching keys") {
			return store.Person{}, fault.New(fault.Transient, op, i.c.Issuer, err).WithHint("is the issuer up? Who is signed in stays so")
		}
		return deny("%s", strings.TrimPrefix(err.Error(), "oidc: "))
	}
	var c claims
	if err := id.Claims(&c); err != nil {
		return deny("claims: %w", err)
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1: // 4.
		return deny("its nonce is not that of this sign-in")
	case len(id.Audience) > 1 && c.Azp == "": // 5.
		return deny("it is for %d audiences and names no authorised party", len(id.Audience))
	case c.Azp != "" && c.Azp != i.c.ClientID:
		return deny("it was issued to %q, not to %q", c.Azp, i.c.ClientID)
	case id.Subject == "" || len(id.Subject) > 255:
		return deny("its subject is empty or too long")
	}
	said, err := i.claimsOf(id, c)
	if err != nil {
		return store.Person{}, err
	}
	return i.Person(said)
}

// claims are those that are looked at.
type claims struct {
	Azp           string          `json:"azp"`
	Email         string          `json:"email"`
	EmailVerified flexible        `json:"email_verified"`
	Elsewhere     json.RawMessage `json:"_claim_names"`
}

// flexible is true, or "true" as some issuers write it.
type flexible bool

// UnmarshalJSON reads either.
func (f *flexible) UnmarshalJSON(b []byte) error {
	*f = string(b) == "true" || string(b) == `"true"`
	return nil
}

// email is the address that the issuer vouches for, or "".
func (c claims) email() string {
	if !c.EmailVerified {
		return ""
	}
	return c.Email
}

// sameAddress compares two addresses without regard to the case of plain letters. In
// other alphabets some letters fold to plain ones: those are other addresses.
func sameAddress(a, b string) bool {
	plain := func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return strings.Map(plain, a) == strings.Map(plain, b)
}

// claimsOf keeps of an ID token what roles hang on, also by lines that the file may
// have later.
func (i *Issuer) claimsOf(id *oidc.IDToken, c claims) (store.Claims, error) {
	all := map[string]json.RawMessage{}
	if err := id.Claims(&all); err != nil {
		return store.Claims{}, fault.New(fault.Untrusted, "check ID token", i.c.Issuer, err)
	}
	name, err := i.name(id, c, all)
	if err != nil {
		return store.Claims{}, err
	}
	groups, err := groupsOf(all[i.c.GroupsClaim])
	if err != nil {
		return store.Claims{}, fault.New(fault.Untrusted, "check ID token", i.c.GroupsClaim, err)
	}
	return store.Claims{
		Issuer: i.c.Issuer, Subject: id.Subject, Name: name, Email: c.email(),
		Groups: groups, GroupsClaim: i.c.GroupsClaim, Elsewhere: len(c.Elsewhere) > 0,
	}, nil
}

// name is what people and the audit log call a person: a verified email, else
// another claim or the subject, at the issuer. It always has an "@".
func (i *Issuer) name(id *oidc.IDToken, c claims, all map[string]json.RawMessage) (string, error) {
	name := c.email()
	if i.c.NameClaim != "email" {
		name = ""
		var s string
		if json.Unmarshal(all[i.c.NameClaim], &s) == nil {
			name = s
		}
	} else if c.Email != "" && name == "" {
		return "", fault.Newf(fault.Denied, "sign in", c.Email, "the issuer has not verified this address").
			WithHint("have the issuer verify it, or set nameClaim to another claim")
	}
	if !strings.Contains(name, "@") { // a subject with one is nobody's address, so it gets another
		name = cmp.Or(name, id.Subject)
		name += "@" + i.Host()
	}
	if len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
		return "", fault.Newf(fault.Denied, "sign in", id.Subject, "the name %q is too long or not plain", name).WithHint("set nameClaim to another claim")
	}
	return name, nil
}

// groupsOf reads a claim that is a list of names or a single one.
func groupsOf(raw json.RawMessage) ([]string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var many []string
	err := json.Unmarshal(raw, &many)
	return many, err
}
