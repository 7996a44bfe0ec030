package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (c *Client) get(ctx context.Context, op, subject, path string, out any) error {
	return c.do(ctx, call{op: op, subject: subject, method: http.MethodGet, path: path, out: out})
}

// Fleet is the fleet in one look.
func (c *Client) Fleet(ctx context.Context) (out FleetInfo, err error) {
	return out, c.get(ctx, "get fleet", "", "/v1/fleet", &out)
}

// Members lists the members that the selector chooses, by id.
func (c *Client) Members(ctx context.Context, s fleet.Selector) (out []MemberInfo, err error) {
	path := "/v1/members"
	if !s.IsEmpty() {
		path += "?selector=" + url.QueryEscape(s.String())
	}
	return out, c.get(ctx, "list members", s.String(), path, &out)
}

// Member is one member.
func (c *Client) Member(ctx context.Context, id fleet.MemberID) (out MemberInfo, err error) {
	return out, c.get(ctx, "get member", string(id), memberPath(id), &out)
}

// Explain says why a member runs what it runs.
func (c *Client) Explain(ctx context.Context, id fleet.MemberID) (out Explanation, err error) {
	return out, c.get(ctx, "explain member", string(id), memberPath(id)+"/explain", &out)
}

// Revoke takes a member's identity away, for good.
func (c *Client) Revoke(ctx context.Context, id fleet.MemberID, reason string) error {
	return c.do(ctx, call{op: "revoke member", subject: string(id), method: http.MethodPost, path: memberPath(id) + "/revoke", in: RevokeRequest{Reason: reason}})
}

func memberPath(id fleet.MemberID) string { return "/v1/members/" + url.PathEscape(string(id)) }

// Tokens lists the join tokens, without their texts.
func (c *Client) Tokens(ctx context.Context) (out []Token, err error) {
	return out, c.get(ctx, "list tokens", "", "/v1/tokens", &out)
}

// CreateToken makes a join token. Its text is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (out Token, err error) {
	return out, c.do(ctx, call{op: "create token", method: http.MethodPost, path: "/v1/tokens", in: r, out: &out, once: true})
}

// DeleteToken makes a join token worthless.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.do(ctx, call{op: "delete token", subject: id, method: http.MethodDelete, path: "/v1/tokens/" + url.PathEscape(id)})
}

// Operators lists the operators.
func (c *Client) Operators(ctx context.Context) (out []OperatorToken, err error) {
	return out, c.get(ctx, "list operators", "", "/v1/operators", &out)
}

// CreateOperator makes an operator. The token is in the answer and nowhere else.
func (c *Client) CreateOperator(ctx context.Context, r OperatorRequest) (out OperatorToken, err error) {
	return out, c.do(ctx, call{op: "create operator", subject: r.Name, method: http.MethodPost, path: "/v1/operators", in: r, out: &out, once: true})
}

// DeleteOperator makes an operator's token worthless.
func (c *Client) DeleteOperator(ctx context.Context, name string) error {
	return c.do(ctx, call{op: "delete operator", subject: name, method: http.MethodDelete, path: "/v1/operators/" + url.PathEscape(name)})
}

// Releases lists the admitted releases, newest first.
func (c *Client) Releases(ctx context.Context) (out []ReleaseInfo, err error) {
	return out, c.get(ctx, "list releases", "", "/v1/releases", &out)
}

// Admit has the coordinator take up what a publisher put into the bucket.
func (c *Client) Admit(ctx context.Context, r AdmitRequest) (out AdmitReply, err error) {
	return out, c.do(ctx, call{op: "admit releases", subject: string(r.Team), method: http.MethodPost, path: "/v1/releases", in: r, out: &out})
}

// Rollouts lists the rollouts, newest first, without history and evidence.
func (c *Client) Rollouts(ctx context.Context) (out []RolloutInfo, err error) {
	return out, c.get(ctx, "list rollouts", "", "/v1/rollouts", &out)
}

// Rollout is one rollout with its history and evidence.
func (c *Client) Rollout(ctx context.Context, id fleet.RolloutID) (out RolloutInfo, err error) {
	return out, c.get(ctx, "get rollout", string(id), rolloutPath(id), &out)
}

// StartRollout begins a rollout.
func (c *Client) StartRollout(ctx context.Context, r RolloutRequest) (out RolloutInfo, err error) {
	return out, c.do(ctx, call{op: "start rollout", subject: string(r.Model) + "@" + string(r.Version), method: http.MethodPost, path: "/v1/rollouts", in: r, out: &out, once: true})
}

// Command tells a rollout something. The answer is the rollout as it was when
// the command was taken; the next decision carries it out.
func (c *Client) Command(ctx context.Context, id fleet.RolloutID, cmd Command, r CommandRequest) (out RolloutInfo, err error) {
	return out, c.do(ctx, call{op: string(cmd) + " rollout", subject: string(id), method: http.MethodPost, path: rolloutPath(id) + "/" + string(cmd), in: r, out: &out, once: true})
}

func rolloutPath(id fleet.RolloutID) string { return "/v1/rollouts/" + url.PathEscape(string(id)) }

// Audit lists at most limit entries whose index is above after, oldest first. A
// negative limit asks for the newest -limit.
func (c *Client) Audit(ctx context.Context, after uint64, limit int) (out []AuditEntry, err error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(limit)}}
	return out, c.get(ctx, "list audit log", "", "/v1/audit?"+q.Encode(), &out)
}

// VerifyAudit reads the whole audit log and checks its chain. It returns the
// number of entries and the hash of the last one, to compare with a copy.
func (c *Client) VerifyAudit(ctx context.Context) (n uint64, head fleet.Digest, err error) {
	for {
		page, err := c.Audit(ctx, n, 500)
		if err != nil || len(page) == 0 {
			return n, head, err
		}
		if err := CheckAudit(head, page); err != nil {
			return n, head, err
		}
		n, head = page[len(page)-1].Index, page[len(page)-1].Hash
	}
}
