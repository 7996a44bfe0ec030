package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Pending says that an operator has to approve the member. It asks again after a
// while, with the same key.
type Pending struct {
	Fingerprint string         `json:"fingerprint"` // of the member's key, as identity.Fingerprint prints it
	After       fleet.Duration `json:"after"`       // when to ask again
}

// PendingMember is a member that waits for approval. GET /v1/pending.
type PendingMember struct {
	Member      fleet.MemberID `json:"member"`
	Fingerprint string         `json:"fingerprint"`
	Kind        fleet.Kind     `json:"kind"`
	Group       fleet.Group    `json:"group"`
	Labels      fleet.Labels   `json:"labels,omitempty"`
	Hardware    fleet.Digest   `json:"hardware,omitzero"`
	Agent       string         `json:"agent,omitempty"`
	Platform    string         `json:"platform,omitempty"`
	Token       string         `json:"token"`          // id of the join token
	From        string         `json:"from,omitempty"` // address that it asked from
	Since       time.Time      `json:"since"`
	State       string         `json:"state"` // waiting, approved or denied
	By          string         `json:"by,omitempty"`
	Reason      string         `json:"reason,omitempty"`
}

// The states of a [PendingMember].
const (
	Waiting  = "waiting"
	Approved = "approved" // it gets its identity when it asks next
	Refused  = "denied"
)

// ApprovalRequest approves or denies a member. POST /v1/pending/{id}/approve and
// /v1/pending/{id}/deny.
type ApprovalRequest struct {
	Fingerprint string `json:"fingerprint"` // of the key that is meant; a member that asks with another stays out
	Reason      string `json:"reason,omitempty"`
}

// UnlockRequest ends a lock. POST /v1/members/{id}/unlock.
type UnlockRequest struct {
	// Certificate is the SHA-256, or how it begins, of the certificate whose holder is
	// the real member; "": the one that was in use. Whoever shows another locks the
	// identity again.
	Certificate string `json:"certificate,omitempty"`
	Reason      string `json:"reason"`
}

// CertificateInfo is what the coordinator remembers of a member's newest
// certificate.
type CertificateInfo struct {
	Generation  uint64       `json:"generation"`
	Fingerprint fleet.Digest `json:"fingerprint,omitzero"` // SHA-256 of it
	Expires     time.Time    `json:"expires"`
	Issuer      fleet.Digest `json:"issuer,omitzero"`     // SHA-256 of the device CA's certificate
	Comebacks   int          `json:"comebacks,omitempty"` // since an operator allowed more
	Hardware    fleet.Digest `json:"hardware,omitzero"`   // of the machine that it enrolled on
}

// DeviceCAInfo is one device CA.
type DeviceCAInfo struct {
	Fingerprint fleet.Digest `json:"fingerprint"` // SHA-256 of its certificate
	Expires     time.Time    `json:"expires"`
	Members     int          `json:"members"` // whose newest certificate it issued, still valid
	Issues      bool         `json:"issues"`  // new certificates come from it
}

// ComebackRequest asks for an identity again, by a key that the coordinator knows,
// when the certificate is good for nothing any more. POST /v1/comeback, without a
// certificate: first with the member alone, which is answered with a challenge,
// then with all of it.
type ComebackRequest struct {
	Member      fleet.MemberID `json:"member"`
	Challenge   []byte         `json:"challenge,omitempty"`
	CSR         []byte         `json:"csr,omitempty"`
	Generation  uint64         `json:"generation,omitempty"`
	Certificate []byte         `json:"certificate,omitempty"` // DER of the newest that it was given
	Signature   []byte         `json:"signature,omitempty"`   // ASN.1, over ComebackRequest.Digest
}

// ComebackReply is a challenge, or the fresh certificate.
type ComebackReply struct {
	Challenge []byte    `json:"challenge,omitempty"`
	Expires   time.Time `json:"expires,omitzero"` // of the challenge
	RenewReply
}

// SignedRequest is a request to AWS STS that a function signed and the coordinator
// sends: what STS answers says which role the function runs as.
type SignedRequest struct {
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// Comeback performs one half of a comeback.
func (c *Client) Comeback(ctx context.Context, r ComebackRequest) (ComebackReply, error) {
	return ask[ComebackReply](ctx, c, call{op: "come back", subject: string(r.Member), method: http.MethodPost, path: "/v1/comeback", in: r})
}

// Pending lists the members that wait for approval.
func (c *Client) Pending(ctx context.Context) ([]PendingMember, error) {
	return get[[]PendingMember](ctx, c, "list pending members", "", "/v1/pending")
}

// ApproveMember lets a pending member in.
func (c *Client) ApproveMember(ctx context.Context, id fleet.MemberID, r ApprovalRequest) error {
	return c.do(ctx, call{op: "approve member", subject: string(id), method: http.MethodPost, path: pendingPath(id) + "/approve", in: r})
}

// DenyMember keeps a pending member out.
func (c *Client) DenyMember(ctx context.Context, id fleet.MemberID, r ApprovalRequest) error {
	return c.do(ctx, call{op: "deny member", subject: string(id), method: http.MethodPost, path: pendingPath(id) + "/deny", in: r})
}

// Unlock ends a lock.
func (c *Client) Unlock(ctx context.Context, id fleet.MemberID, r UnlockRequest) error {
	return c.do(ctx, call{op: "unlock member", subject: string(id), method: http.MethodPost, path: memberPath(id) + "/unlock", in: r})
}

// AllowComeback lets a member come back by its key as often as a new one.
func (c *Client) AllowComeback(ctx context.Context, id fleet.MemberID) error {
	return c.do(ctx, call{op: "allow comeback", subject: string(id), method: http.MethodPost, path: memberPath(id) + "/allow-comeback"})
}

func pendingPath(id fleet.MemberID) string { return "/v1/pending/" + url.PathEscape(string(id)) }
