package share

import (
	"crypto/tls"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// Certificates name members, not hosts, and are judged by the fleet's device CAs
// and revocations, which change while connections are open: so both ends leave
// the judging to Identify, in the handshake and again at every question.

func (s *Site) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c := s.o.Certificate()
			return &c, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := s.peer(&cs)
			if err != nil {
				s.count.refused.Add(1)
			}
			return err
		},
	}
}

func (s *Site) clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// No name of a host is in the certificate; who it is, peer says, and ask
		// compares it with who was asked.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := s.peer(&cs)
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c := s.o.Certificate()
			return &c, nil
		},
	}
}

// peer is who the other end proved to be.
func (s *Site) peer(cs *tls.ConnectionState) (gossip.Identity, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return gossip.Identity{}, fault.Newf(fault.Denied, "identify neighbour", "", "it shows no certificate")
	}
	id, err := s.o.Identify(cs.PeerCertificates[0].Raw)
	if err != nil {
		return id, fault.New(fault.Denied, "identify neighbour", "", err)
	}
	return id, nil
}

// guest is the member of this site that asks.
func (s *Site) guest(cs *tls.ConnectionState) (fleet.MemberID, error) {
	id, err := s.peer(cs)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.view.here[id.Member] {
		return "", fault.Newf(fault.Denied, "identify neighbour", string(id.Member), "it is not of this cell")
	}
	return id.Member, nil
}
