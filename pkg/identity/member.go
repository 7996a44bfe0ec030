package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// Member is an enrolled member. It comes from [Load] or [Enrol] and is safe for
// concurrent use.
type Member struct {
	o   Options
	key *signer.Signer

	mu     sync.Mutex        // guards the rest
	id     Identity          // on disk before it is here
	cert   *x509.Certificate // id's
	client *api.Client       // shows it
}

// Key is the member's key. It never changes.
func (m *Member) Key() *signer.Signer { return m.key }

// Identity is who the member is now.
func (m *Member) Identity() Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

// Client shows the newest certificate. Ask for it at each call: a renewal brings
// another.
func (m *Member) Client() *api.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.client
}

// Close lets go of idle connections.
func (m *Member) Close() { m.Client().Close() }

// RenewAt is when the certificate should be renewed: about two thirds into its
// life. The member's id and the generation decide how much earlier or later, up to
// a twelfth of the life, so that a fleet that was installed in an hour does not
// renew in one, and a restart changes nothing.
func (m *Member) RenewAt() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	life := m.cert.NotAfter.Sub(m.cert.NotBefore)
	return m.cert.NotBefore.Add(2*life/3 - life/12 + m.share(life/6))
}

// share is the member's own part of a span, which differs from one generation to
// the next.
func (m *Member) share(span time.Duration) time.Duration {
	sum := sha256.Sum256(fmt.Appendf(nil, "modelfleet/renew/v1\x00%s\x00%d", m.id.Facts.ID, m.id.Generation))
	part := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32)
	return time.Duration(part * float64(span))
}

// Outdated reports whether the fleet has a newer device CA than the one that issued
// the certificate, going by those that the trust pack lists, and the member has not
// asked it for a certificate yet; and at which point of the certificate's life the
// member should: at once when its own is no longer listed, else spread like
// renewals over a twelfth of it, counted from now.
func (m *Member) Outdated(listed []*x509.Certificate, now time.Time) (at time.Time, outdated bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest, own := newestOf(listed), false
	for _, ca := range listed {
		own = own || bytes.Equal(ca.Raw, m.id.Issuer)
	}
	if newest == nil || bytes.Equal(newest.Raw, m.id.Issuer) || fleet.DigestOf(newest.Raw) == m.id.Sought {
		return time.Time{}, false
	}
	if !own {
		return now, true
	}
	return now.Add(m.share(m.cert.NotAfter.Sub(m.cert.NotBefore) / 12)), true
}

// newestOf is the certificate that was made last; of two that were made at once, the
// one listed later.
func newestOf(listed []*x509.Certificate) (newest *x509.Certificate) {
	for _, ca := range listed {
		if newest == nil || !ca.NotBefore.Before(newest.NotBefore) {
			newest = ca
		}
	}
	return newest
}

// Expired reports whether the certificate is past its life: the coordinator will
// not renew it, and the member has to come back or enrol again.
func (m *Member) Expired(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.After(m.cert.NotAfter)
}

// Renewal is what a renewal goes by.
type Renewal struct {
	GossipAddr string              // where the cell can reach the member; "" when it cannot
	Listed     []*x509.Certificate // device CAs of the newest trust pack
}

// Renew gets a fresh certificate for the same key and keeps it. When the coordinator
// does not believe the certificate any more, because it expired, was replaced or
// comes from a device CA that was removed, the member comes back by its key; back
// reports that. Which of the two it is, is the coordinator's to say: the device's
// clock may be wrong. Calls must not overlap.
func (m *Member) Renew(ctx context.Context, o Renewal) (back bool, err error) {
	id := m.Identity()
	csr, err := request(m.key, id.Facts.ID)
	if err != nil {
		return false, err
	}
	r, err := m.renew(ctx, id, csr, o.GossipAddr)
	if fault.Is(err, fault.Untrusted) {
		refused := err
		if r, err = m.comeBack(ctx, id, csr); err != nil {
			return false, fmt.Errorf("%w (it had to come back: %w)", err, refused)
		}
		back = true
	}
	if err != nil {
		return false, err
	}
	id.Certificate, id.Issuer, id.Generation = r.Certificate, r.DeviceCA, r.Generation
	if r.Cell.ID != "" {
		id.Cell = r.Cell
	}
	id.learn(r.Pins)
	if newest := newestOf(o.Listed); newest != nil {
		id.Sought = fleet.DigestOf(newest.Raw)
	}
	cert, err := id.judge(m.key.ECDSA())
	if err != nil {
		return false, err
	}
	if err := m.o.save(id); err != nil {
		return false, err
	}
	return back, m.become(id, cert)
}

func (m *Member) renew(ctx context.Context, id Identity, csr []byte, gossipAddr string) (api.RenewReply, error) {
	client, err := m.connect(id, true) // whose connection surely shows the newest certificate
	if err != nil {
		return api.RenewReply{}, err
	}
	defer client.Close()
	return client.Renew(ctx, api.RenewRequest{CSR: csr, Generation: id.Generation, GossipAddr: gossipAddr})
}

// comeBack answers a challenge with the member's key. It shows no certificate.
func (m *Member) comeBack(ctx context.Context, id Identity, csr []byte) (api.RenewReply, error) {
	client, err := m.connect(id, false)
	if err != nil {
		return api.RenewReply{}, err
	}
	defer client.Close()
	req := api.ComebackRequest{Member: id.Facts.ID}
	r, err := client.Comeback(ctx, req)
	if err != nil {
		return api.RenewReply{}, err
	}
	req.Challenge, req.CSR = r.Challenge, csr
	req.Generation, req.Certificate = id.Generation, id.Certificate
	digest := req.Digest()
	if req.Signature, err = m.key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		return api.RenewReply{}, fault.New(fault.Internal, "come back", string(id.Facts.ID), err)
	}
	r, err = client.Comeback(ctx, req)
	return r.RenewReply, err
}

// become takes over an identity. Its certificate needs a client of its own:
// connections that are open go on with the certificate they began with.
func (m *Member) become(id Identity, cert *x509.Certificate) error {
	client, err := m.connect(id, true)
	if err != nil {
		return err
	}
	m.mu.Lock()
	old := m.client
	m.id, m.cert, m.client = id, cert, client
	m.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

// connect makes a client that shows an identity's certificate, or none.
func (m *Member) connect(id Identity, show bool) (*api.Client, error) {
	o := api.Options{URL: id.URL, Pin: id.Pin, Pins: id.Pins, Attempts: m.o.Attempts}
	if show {
		chain := [][]byte{id.Certificate}
		if !bytes.Equal(id.Issuer, id.Certificate) {
			chain = append(chain, id.Issuer)
		}
		cert := &tls.Certificate{Certificate: chain, PrivateKey: m.key}
		o.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	}
	return api.NewClient(o)
}
