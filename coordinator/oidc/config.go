package oidc

import (
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/strict"
)

// Config says which issuer to ask and what its people may do. It is a JSON file,
// read strictly; docs/guides/operator.md shows one.
type Config struct {
	Issuer           string         `json:"issuer"` // its URL, exactly as in its tokens
	ClientID         string         `json:"clientId"`
	ClientSecretFile string         `json:"clientSecretFile,omitempty"` // absent: a public client
	CAFile           string         `json:"caFile,omitempty"`           // PEM; absent: the system's authorities
	Scopes           []string       `json:"scopes,omitempty"`           // beside openid; by default email and profile
	NameClaim        string         `json:"nameClaim,omitempty"`        // what people are called by; by default email
	GroupsClaim      string         `json:"groupsClaim,omitempty"`      // by default groups
	Algorithms       []string       `json:"algorithms,omitempty"`       // of ID tokens; by default RS256, PS256, ES256 and EdDSA
	Session          fleet.Duration `json:"session,omitempty"`          // how long a sign-in lasts; by default 12h
	Roles            []Grant        `json:"roles"`                      // the first that matches a person is theirs
}

// Grant gives a role to the people it matches. Exactly one of Group, Email and
// Subject is set.
type Grant struct {
	Group   string    `json:"group,omitempty"`
	Email   string    `json:"email,omitempty"` // counts only when the issuer has verified it
	Subject string    `json:"subject,omitempty"`
	Role    api.Role  `json:"role"`
	Scope   api.Scope `json:"scope,omitzero"`
}

// String names whom the grant is for.
func (g Grant) String() string {
	switch {
	case g.Group != "":
		return "group " + g.Group
	case g.Email != "":
		return "email " + g.Email
	}
	return "subject " + g.Subject
}

// asymmetric are the algorithms by which only the issuer can have signed. "none"
// and HS256, whose key would be the client's secret, are not among them.
var asymmetric = [...]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

const maxConfig = 1 << 20

// LoadConfig reads a configuration file.
func LoadConfig(path string) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err == nil && len(b) > maxConfig {
		err = fault.Newf(fault.Invalid, "read file", path, "it is larger than %d bytes", maxConfig)
	}
	if err == nil {
		err = strict.Decode(b, &c)
	}
	if err == nil {
		c, err = c.complete()
	}
	if err != nil {
		return c, fault.New(fault.Invalid, "read sign-in configuration", path, err).WithHint("docs/guides/operator.md shows one")
	}
	return c, nil
}

// complete fills in the defaults and says what is wrong.
func (c Config) complete() (Config, error) {
	bad := func(what, format string, args ...any) (Config, error) {
		return c, fault.Newf(fault.Invalid, "check", what, format, args...)
	}
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return bad("issuer", "%q is not a URL without query and fragment", c.Issuer)
	case u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())):
		return bad("issuer", "%q is not https: anybody on the way could sign in as anybody", c.Issuer)
	case c.ClientID == "":
		return bad("clientId", "there is none")
	case len(c.Roles) == 0:
		return bad("roles", "there are none, so nobody could sign in")
	case c.Session < 0 || c.Session.D() > 7*24*time.Hour:
		return bad("session", "%s is not between 0 and 168h", c.Session)
	}
	if c.Scopes == nil {
		c.Scopes = []string{"email", "profile"}
	}
	if c.NameClaim == "" {
		c.NameClaim = "email"
	}
	if c.GroupsClaim == "" {
		c.GroupsClaim = "groups"
	}
	if c.Algorithms == nil {
		c.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric[:], a) {
			return bad("algorithms", "%q is not one by which only the issuer can sign; use some of %s", a, strings.Join(asymmetric[:], ", "))
		}
	}
	for _, g := range c.Roles {
		set := 0
		for _, s := range []string{g.Group, g.Email, g.Subject} {
			if s != "" {
				set++
			}
		}
		switch {
		case set != 1:
			return bad("roles", "each needs exactly one of group, email and subject")
		case !slices.Contains([]api.Role{api.Viewer, api.Operator, api.Approver, api.Admin}, g.Role):
			return bad(g.String(), "there is no role %q; use viewer, operator, approver or admin", g.Role)
		case g.Role == api.Admin && !g.Scope.IsZero():
			return bad(g.String(), "an admin has no scope")
		}
		if err := g.Scope.Check(); err != nil {
			return c, err
		}
	}
	return c, nil
}

func loopback(host string) bool { return host == "127.0.0.1" || host == "::1" || host == "localhost" }

// RedirectPath is where the issuer sends browsers back to the dashboard.
const RedirectPath = "/login/callback"

// CheckLoopback refuses redirects of commands that lead off the machine.
func CheckLoopback(redirect string) error {
	u, err := url.Parse(redirect)
	if err != nil || u.Scheme != "http" || !loopback(u.Hostname()) || u.Port() == "" || u.User != nil {
		return fault.Newf(fault.Invalid, "sign in", redirect, "commands are sent back to http://127.0.0.1:PORT only")
	}
	return nil
}
