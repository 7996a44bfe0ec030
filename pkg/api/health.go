package api

import (
	"context"
	"net/http"
	"time"
)

// Severity says how soon a person must act on a [Finding].
type Severity string

// The severities, mildest first.
const (
	Advice  Severity = "advice"  // nothing runs out; better otherwise
	Notice  Severity = "notice"  // runs out within 90 days
	Warning Severity = "warning" // runs out within 60 days, or is not as it should be
	Urgent  Severity = "urgent"  // runs out within 30 days
	Bad     Severity = "bad"     // ran out, or is wrong now
)

// Rank orders severities: Advice is 1, Bad is 5, an unknown one 0.
func (s Severity) Rank() int {
	for i, v := range Severities() {
		if s == v {
			return i + 1
		}
	}
	return 0
}

// Severities are all of them, mildest first.
func Severities() []Severity { return []Severity{Advice, Notice, Warning, Urgent, Bad} }

// Finding is one thing about the fleet's keys and metadata that a person should
// know, and what to do about it.
type Finding struct {
	Severity Severity  `json:"severity"`
	Code     string    `json:"code"`          // expiry, overdue, signers, shared-key, sign-in, clock
	Subject  string    `json:"subject"`       // "root", "policy", "pub-vision", "timestamp", "device CA"
	What     string    `json:"what"`          // "expires in 27 days, on 2026-12-21"
	When     time.Time `json:"when,omitzero"` // of the expiry
	Remedy   string    `json:"remedy"`        // the next move
}

// Expiry is when a role or certificate runs out.
type Expiry struct {
	Subject string    `json:"subject"` // as in [Finding]
	Expires time.Time `json:"expires"`
}

// Health is the state of the fleet's keys and metadata. GET /v1/health.
type Health struct {
	At       time.Time `json:"at"`       // the coordinator's clock
	Version  string    `json:"version"`  // of the coordinator
	Findings []Finding `json:"findings"` // gravest first
	Expiries []Expiry  `json:"expiries"` // of every role and certificate, soonest first
}

// NoticeHeader is on answers to operators while something of root, policy, a
// publisher or the device CA runs out: one line for people.
const NoticeHeader = "Modelfleet-Notice"

// OnNotice has f told what the coordinator wants people to know, with each answer
// that says so. Set it before the first call.
func (c *Client) OnNotice(f func(text string)) { c.notice = f }

// noticed passes on what an answer says besides.
func (c *Client) noticed(h http.Header) {
	if text := h.Get(NoticeHeader); text != "" && c.notice != nil {
		c.notice(text)
	}
}

// Health asks how the fleet's keys and metadata stand.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var out Health
	err := c.do(ctx, call{op: "ask for findings", method: http.MethodGet, path: "/v1/health", out: &out})
	return out, err
}
