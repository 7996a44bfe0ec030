package httpapi

import (
	"net/http"

	"github.com/modelfleet/modelfleet/coordinator/desk"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Who may make a call.
type Who string

// The callers there are.
const (
	Anyone  Who = "anyone"  // it gives nothing away, or what is shown authenticates itself
	Members Who = "members" // by certificate, or a function by its token
	People  Who = "people"  // operators
)

// Reach says what an operator's scope means for a call.
type Reach string

// The reaches.
const (
	Whole    Reach = "whole"    // who has a scope is refused
	Filtered Reach = "filtered" // the answer has what lies in the scope
	Shared   Reach = "shared"   // it is about what the whole fleet rests on: everybody sees all of it
	Checked  Reach = "checked"  // the desk refuses what lies outside
	Own      Reach = "own"      // it is about the caller alone
)

// Rule is who may make a call.
type Rule struct {
	Who   Who
	Role  api.Role // the least, of People
	Reach Reach    // of People
}

// Rules are the rules of every call by its pattern. A call without one is not
// served: [New] fails. TestEveryCallByRoleAndScope tries each of them.
func Rules() map[string]Rule {
	return map[string]Rule{
		"GET /healthz": {Who: Anyone},
		"GET /readyz":  {Who: Anyone},
		"/v1/":         {Who: Anyone}, // there is no such call
		"GET /metrics": {People, api.Viewer, Whole},

		"POST /v1/enrol":             {Who: Anyone}, // a join token's secret is in the body
		"GET /v1/packs/{group}":      {Who: Anyone}, // signed
		"GET /v1/time":               {Who: Anyone}, // signed for the nonce
		"POST /v1/comeback":          {Who: Anyone}, // a known member's key signs for it
		"POST /v1/renew":             {Who: Members},
		"POST /v1/cells/{cell}/rows": {Who: Members},
		"POST /v1/objects":           {Who: Members},
		"GET /v1/cell":               {Who: Members},
		"GET /v1/packs/{group}/url":  {Who: Members}, // with a certificate, of its own group

		"GET /v1/fleet":                        {People, api.Viewer, Filtered},
		"GET /v1/health":                       {People, api.Viewer, Shared}, // keys, certificates and roles, of all teams
		"GET /v1/members":                      {People, api.Viewer, Filtered},
		"GET /v1/members/{id}":                 {People, api.Viewer, Checked},
		"GET /v1/members/{id}/explain":         {People, api.Viewer, Checked},
		"POST /v1/members/{id}/revoke":         {People, api.Operator, Checked},
		"POST /v1/members/{id}/unlock":         {People, api.Operator, Checked},
		"POST /v1/members/{id}/allow-comeback": {People, api.Operator, Checked},
		"GET /v1/pending":                      {People, api.Viewer, Filtered},
		"POST /v1/pending/{id}/approve":        {People, api.Operator, Checked},
		"POST /v1/pending/{id}/deny":           {People, api.Operator, Checked},
		"GET /v1/releases":                     {People, api.Viewer, Filtered},
		"POST /v1/releases":                    {People, api.Operator, Checked},
		"GET /v1/rollouts":                     {People, api.Viewer, Filtered},
		"GET /v1/rollouts/{id}":                {People, api.Viewer, Checked},
		"POST /v1/rollouts":                    {People, api.Operator, Checked},
		"POST /v1/rollouts/{id}/{command}":     {People, api.Operator, Checked}, // approve and skip: approver, says the desk
		"GET /v1/tokens":                       {People, api.Viewer, Filtered},
		"POST /v1/tokens":                      {People, api.Operator, Checked},
		"DELETE /v1/tokens/{id}":               {People, api.Operator, Checked},
		"GET /v1/operators":                    {People, api.Viewer, Whole},
		"POST /v1/operators":                   {People, api.Admin, Whole},
		"DELETE /v1/operators/{name}":          {People, api.Admin, Whole},
		"GET /v1/login":                        {Who: Anyone},
		"POST /v1/login":                       {Who: Anyone}, // a code of the issuer is in the body
		"POST /v1/login/device":                {Who: Anyone},
		"POST /v1/login/device/poll":           {Who: Anyone},
		"GET /v1/whoami":                       {People, api.Viewer, Own},
		"DELETE /v1/session":                   {People, api.Viewer, Own},
		"POST /v1/operators/{name}/rotate":     {People, api.Viewer, Own}, // of others: admin, says the desk
		"GET /v1/audit":                        {People, api.Viewer, Whole},
		"GET /v1/audit/checkpoint":             {Who: Anyone}, // signed
		"GET /v1/audit/consistency":            {Who: Anyone}, // a proof, of hashes
		"GET /v1/audit/entries/{n}":            {People, api.Viewer, Whole},
		"GET /v1/audit/splits":                 {People, api.Viewer, Whole},
		"POST /v1/audit/witness":               {Who: Members},
		"GET /v1/events":                       {People, api.Viewer, Filtered},
	}
}

// operator says who asks by the bearer token, and whether the call's rule lets
// them ask at all.
func (s *server) operator(r *http.Request) (api.OperatorToken, error) {
	t := bearer(r)
	if t == "" {
		return api.OperatorToken{}, fault.Newf(fault.Denied, "authenticate", "", "no operator token was sent").
			WithHint("send it as \"Authorization: Bearer TOKEN\"; commands take it from the context file")
	}
	by, err := s.Desk.Authenticate(r.Context(), t)
	if fault.Is(err, fault.Denied) {
		return by, s.wrong(r, err)
	}
	if err != nil {
		return by, err
	}
	return by, s.rules[r.Pattern].allow(by, r.Method+" "+r.URL.EscapedPath())
}

// wrong counts a token that is not known. Right ones are taken from any address
// at any time: behind one address may be many people and one of them noisy.
func (s *server) wrong(r *http.Request, err error) error {
	from := throttle.Address(r)
	if slow := s.Throttle.Check(from); slow != nil {
		return slow
	}
	s.Throttle.Failed(from)
	s.Logger.Warn("operator refused", "from", from, "call", r.Pattern, "err", err)
	return err
}

// allow refuses who lacks the role, and who has a scope where that means nothing.
func (u Rule) allow(by api.OperatorToken, call string) error {
	if u.Who != People {
		return fault.Newf(fault.Internal, "authenticate", call, "its rule is not for people")
	}
	if err := desk.Allow(by, u.Role, call); err != nil {
		return err
	}
	if u.Reach == Whole {
		return desk.AllowWhole(by, call)
	}
	return nil
}
