package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// LoginInfo is what a command needs to sign a person in. GET /v1/login.
type LoginInfo struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"clientId"`
	AuthURL  string   `json:"authUrl"` // the issuer's, where a browser begins
	Scopes   []string `json:"scopes"`
	Device   bool     `json:"device"` // the issuer offers sign-in on another device
}

// LoginRequest ends a sign-in with the code that the issuer sent to the command.
// POST /v1/login.
type LoginRequest struct {
	Code     string `json:"code"`
	Redirect string `json:"redirect"` // http://127.0.0.1:PORT/..., as in the authorisation request
	Nonce    string `json:"nonce"`    // likewise
	Verifier string `json:"verifier"` // of PKCE
}

// DeviceLogin is a sign-in on another device under way. POST /v1/login/device.
type DeviceLogin struct {
	UserCode    string    `json:"userCode"`
	URL         string    `json:"url"`
	CompleteURL string    `json:"completeUrl,omitempty"` // with the code in it
	Interval    int64     `json:"interval"`              // seconds between two polls
	Expires     time.Time `json:"expires"`
	Handle      string    `json:"handle"` // to poll with
}

// DevicePoll asks whether the person is done. POST /v1/login/device/poll.
type DevicePoll struct {
	Handle string `json:"handle"`
}

// DeviceReply answers a poll: the session's token, or that it is pending.
type DeviceReply struct {
	Pending bool           `json:"pending,omitempty"`
	Token   *OperatorToken `json:"token,omitempty"`
}

// LoginInfo says how to sign in.
func (c *Client) LoginInfo(ctx context.Context) (LoginInfo, error) {
	return get[LoginInfo](ctx, c, "sign in", "", "/v1/login")
}

// Login begins a session with a code of the issuer. Its token is in the answer
// and nowhere else.
func (c *Client) Login(ctx context.Context, r LoginRequest) (OperatorToken, error) {
	return ask[OperatorToken](ctx, c, call{op: "sign in", method: http.MethodPost, path: "/v1/login", in: r, once: true, timeout: time.Minute})
}

// BeginDevice begins a sign-in on another device.
func (c *Client) BeginDevice(ctx context.Context) (DeviceLogin, error) {
	return ask[DeviceLogin](ctx, c, call{op: "sign in", method: http.MethodPost, path: "/v1/login/device", once: true, timeout: time.Minute})
}

// PollDevice asks whether the person is done on the other device.
func (c *Client) PollDevice(ctx context.Context, handle string) (DeviceReply, error) {
	return ask[DeviceReply](ctx, c, call{op: "sign in", method: http.MethodPost, path: "/v1/login/device/poll", in: DevicePoll{handle}, once: true, timeout: time.Minute})
}

// Whoami is who asks, as the coordinator sees it.
func (c *Client) Whoami(ctx context.Context) (OperatorToken, error) {
	return get[OperatorToken](ctx, c, "ask who asks", "", "/v1/whoami")
}

// Logout ends the session that is shown; with all, every session of its holder.
func (c *Client) Logout(ctx context.Context, all bool) error {
	path := "/v1/session"
	if all {
		path += "?all=true"
	}
	return c.do(ctx, call{op: "sign out", method: http.MethodDelete, path: path})
}

// RotateOperator gives an operator a new token in place of the old one. It is in
// the answer and nowhere else.
func (c *Client) RotateOperator(ctx context.Context, name string, r RotateRequest) (OperatorToken, error) {
	return ask[OperatorToken](ctx, c, call{op: "rotate operator token", subject: name, method: http.MethodPost, path: "/v1/operators/" + url.PathEscape(name) + "/rotate", in: r, once: true})
}
