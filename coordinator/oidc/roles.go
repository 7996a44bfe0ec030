package oidc

import (
	"reflect"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Match finds the first of the configuration's roles that is for a person, by what
// the issuer said of them. It is pure: the same claims and lines give the same
// answer, at the sign-in and at each request after it. Denied: none is for them.
func (c Config) Match(p store.Claims) (Grant, error) {
	const op = "match roles"
	if p.Issuer != c.Issuer || p.Subject == "" {
		return Grant{}, fault.Newf(fault.Denied, op, p.Name, "they signed in at %q, and people of this fleet do at %s", p.Issuer, c.Issuer).WithHint("sign in again: `modelfleet login`, or the dashboard's page")
	}
	groups := p.Groups
	if p.GroupsClaim != c.GroupsClaim { // names out of another claim mean something else
		groups = nil
	}
	for _, g := range c.Roles {
		if g.Group != "" && slices.Contains(groups, g.Group) || g.Email != "" && sameAddress(g.Email, p.Email) || g.Subject != "" && g.Subject == p.Subject {
			return g, nil
		}
	}
	none := fault.Newf(fault.Denied, op, p.Name, "the issuer knows them, and no role of this fleet is theirs")
	switch {
	case len(groups) == 0 && p.Elsewhere:
		return Grant{}, none.WithHint("they are in more groups than the issuer puts into a token: have it send only those of this application")
	case len(groups) == 0:
		return Grant{}, none.WithHint("the token has no claim %q: have the issuer send it, or ask for its scope in the -oidc file", c.GroupsClaim)
	}
	return Grant{}, none.WithHint("have them put into a group that the -oidc file gives a role; theirs are %s", strings.Join(groups[:min(len(groups), 8)], ", "))
}

// Person is what somebody of whom the issuer said these claims may do by the roles of
// now; Denied: nothing.
func (i *Issuer) Person(p store.Claims) (store.Person, error) {
	c := i.c
	i.mu.Lock()
	c.Roles = i.roles
	i.mu.Unlock()
	g, err := c.Match(p)
	if err != nil {
		return store.Person{}, err
	}
	return store.Person{Claims: p, Role: g.Role, Scope: g.Scope, Why: g.String(), Session: c.Session.D()}, nil
}

// Reread takes up the roles of the file that the configuration is of, and reports
// whether they are others than before. A file that cannot be read, or in which more
// than the roles changed, leaves those that are, until it is mended or the
// coordinator starts again; [Issuer.Trouble] says so as long.
func (i *Issuer) Reread() (changed bool, err error) {
	conf, err := LoadConfig(i.path)
	if err == nil {
		was := i.c
		was.Roles = conf.Roles
		if !reflect.DeepEqual(was, conf) {
			err = fault.Newf(fault.Invalid, "read sign-in configuration", i.path, "more than its roles changed").
				WithHint("start the coordinator again: only roles are taken up while it runs")
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.trouble = err; err != nil {
		return false, err
	}
	changed = !reflect.DeepEqual(i.roles, conf.Roles)
	i.roles = conf.Roles
	return changed, nil
}

// Trouble is why the file's roles are not those in force; nil when they are.
func (i *Issuer) Trouble() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.trouble
}
