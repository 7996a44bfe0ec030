package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// get asks for a T.
func get[T any](ctx context.Context, c *Client, op, subject, path string) (T, error) {
	return ask[T](ctx, c, call{op: op, subject: subject, method: http.MethodGet, path: path})
}

// ask performs k and reads a T from the answer.
func ask[T any](ctx context.Context, c *Client, k call) (T, error) {
	var out T
	k.out = &out
	err := c.do(ctx, k)
	return out, err
}

// Fleet is the fleet in one look.
func (c *Client) Fleet(ctx context.Context) (FleetInfo, error) {
	return get[FleetInfo](ctx, c, "get fleet", "", "/v1/fleet")
}

// Members lists the members that the selector chooses, by id.
func (c *Client) Members(ctx context.Context, s fleet.Selector) ([]MemberInfo, error) {
	path := "/v1/members"
	if !s.IsEmpty() {
		path += "?selector=" + url.QueryEscape(s.String())
	}
	return get[[]MemberInfo](ctx, c, "list members", s.String(), path)
}

// Member is one member.
func (c *Client) Member(ctx context.Context, id fleet.MemberID) (MemberInfo, error) {
	return get[MemberInfo](ctx, c, "get member", string(id), memberPath(id))
}

// Explain says why a member runs what it runs.
func (c *Client) Explain(ctx context.Context, id fleet.MemberID) (Explanation, error) {
	return get[Explanation](ctx, c, "explain member", string(id), memberPath(id)+"/explain")
}

// Revoke takes a member's identity away, for good.
func (c *Client) Revoke(ctx context.Context, id fleet.MemberID, reason string) error {
	return c.do(ctx, call{op: "revoke member", subject: string(id), method: http.MethodPost, path: memberPath(id) + "/revoke", in: RevokeRequest{Reason: reason}})
}

func memberPath(id fleet.MemberID) string { return "/v1/members/" + url.PathEscape(string(id)) }

// Tokens lists the join tokens, without their texts.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return get[[]Token](ctx, c, "list tokens", "", "/v1/tokens")
}

// CreateToken makes a join token. Its text is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (Token, error) {
	return ask[Token](ctx, c, call{op: "create token", method: http.MethodPost, path: "/v1/tokens", in: r, once: true})
}

// DeleteToken makes a join token worthless.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.do(ctx, call{op: "delete token", subject: id, method: http.MethodDelete, path: "/v1/tokens/" + url.PathEscape(id)})
}

// Operators lists the operators.
func (c *Client) Operators(ctx context.Context) ([]OperatorToken, error) {
	return get[[]OperatorToken](ctx, c, "list operators", "", "/v1/operators")
}

// CreateOperator makes an operator. The token is in the answer and nowhere else.
func (c *Client) CreateOperator(ctx context.Context, r OperatorRequest) (OperatorToken, error) {
	return ask[OperatorToken](ctx, c, call{op: "create operator", subject: r.Name, method: http.MethodPost, path: "/v1/operators", in: r, once: true})
}

// DeleteOperator makes an operator's token worthless.
func (c *Client) DeleteOperator(ctx context.Context, name string) error {
	return c.do(ctx, call{op: "delete operator", subject: name, method: http.MethodDelete, path: "/v1/operators/" + url.PathEscape(name)})
}

// Releases lists the admitted releases, newest first.
func (c *Client) Releases(ctx context.Context) ([]ReleaseInfo, error) {
	return get[[]ReleaseInfo](ctx, c, "list releases", "", "/v1/releases")
}

// Admit has the coordinator take up what a publisher put into the bucket.
func (c *Client) Admit(ctx context.Context, r AdmitRequest) (AdmitReply, error) {
	return ask[AdmitReply](ctx, c, call{op: "admit releases", subject: string(r.Team), method: http.MethodPost, path: "/v1/releases", in: r})
}

// Rollouts lists the rollouts, newest first, without history and evidence.
func (c *Client) Rollouts(ctx context.Context) ([]RolloutInfo, error) {
	return get[[]RolloutInfo](ctx, c, "list rollouts", "", "/v1/rollouts")
}

// Rollout is one rollout with its history and evidence.
func (c *Client) Rollout(ctx context.Context, id fleet.RolloutID) (RolloutInfo, error) {
	return get[RolloutInfo](ctx, c, "get rollout", string(id), rolloutPath(id))
}

// StartRollout begins a rollout.
func (c *Client) StartRollout(ctx context.Context, r RolloutRequest) (RolloutInfo, error) {
	return ask[RolloutInfo](ctx, c, call{op: "start rollout", subject: string(r.Model) + "@" + string(r.Version), method: http.MethodPost, path: "/v1/rollouts", in: r, once: true})
}

// Command tells a rollout something. The answer is the rollout as it was when
// the command was taken; the next decision carries it out.
func (c *Client) Command(ctx context.Context, id fleet.RolloutID, cmd Command, r CommandRequest) (RolloutInfo, error) {
	return ask[RolloutInfo](ctx, c, call{op: string(cmd) + " rollout", subject: string(id), method: http.MethodPost, path: rolloutPath(id) + "/" + string(cmd), in: r, once: true})
}

func rolloutPath(id fleet.RolloutID) string { return "/v1/rollouts/" + url.PathEscape(string(id)) }

// Audit lists at most limit entries whose index is above after, oldest first. A
// negative limit asks for the newest -limit.
func (c *Client) Audit(ctx context.Context, after uint64, limit int) ([]AuditEntry, error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(limit)}}
	return get[[]AuditEntry](ctx, c, "list audit log", "", "/v1/audit?"+q.Encode())
}
