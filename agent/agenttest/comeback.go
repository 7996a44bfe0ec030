package agenttest

import (
	"crypto/x509"
	"net/http"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Void makes every certificate given so far void, as when a lock ends: members have
// to come back by their key.
func (c *Coordinator) Void() {
	c.mu.Lock()
	c.back = map[fleet.Digest]bool{}
	c.mu.Unlock()
	c.srv.CloseClientConnections()
}

// void refuses a certificate from before; the caller holds mu.
func (c *Coordinator) void(cert *x509.Certificate, who fleet.MemberID) error {
	if c.back == nil || c.back[fleet.DigestOf(cert.Raw)] {
		return nil
	}
	return fault.Newf(fault.Untrusted, "identify member", string(who), "its certificate was replaced when the identity was unlocked")
}

// comeback asks for an answer to a challenge, and looks at no signature.
func (c *Coordinator) comeback(r *http.Request, _ fleet.MemberID) (any, error) {
	var req api.ComebackRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	if len(req.Challenge) == 0 {
		return api.ComebackReply{Challenge: []byte("challenge")}, nil
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, fault.New(fault.Invalid, "come back", string(req.Member), err)
	}
	cert, err := c.f.ca.Issue(fleet.Device, req.Member, csr.PublicKey, c.Life, req.Generation+1)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.back[fleet.DigestOf(cert)] = true
	c.mu.Unlock()
	return api.ComebackReply{RenewReply: api.RenewReply{Certificate: cert, DeviceCA: c.f.ca.Certificate.Raw, Generation: req.Generation + 1}}, nil
}
