package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
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

// RenewAt is two thirds into the certificate's life.
func (m *Member) RenewAt() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cert.NotBefore.Add(2 * m.cert.NotAfter.Sub(m.cert.NotBefore) / 3)
}

// Expired reports whether the certificate is past its life: the coordinator will
// not renew it, and the member must enrol again.
func (m *Member) Expired(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.After(m.cert.NotAfter)
}

// Renew gets a fresh certificate for the same key and keeps it. gossipAddr is
// where the cell can reach the member; "" when it cannot. Calls must not overlap.
func (m *Member) Renew(ctx context.Context, gossipAddr string) error {
	id := m.Identity()
	csr, err := request(m.key, id.Facts.ID)
	if err != nil {
		return err
	}
	client, err := m.connect(id) // whose connection surely shows the newest certificate
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.Renew(ctx, api.RenewRequest{CSR: csr, Generation: id.Generation, GossipAddr: gossipAddr})
	if err != nil {
		return err
	}
	id.Certificate, id.Issuer, id.Generation, id.Cell = r.Certificate, r.DeviceCA, r.Generation, r.Cell
	cert, err := id.judge(m.key.ECDSA())
	if err != nil {
		return err
	}
	if err := m.o.save(id); err != nil {
		return err
	}
	return m.become(id, cert)
}

// become takes over an identity. Its certificate needs a client of its own:
// connections that are open go on with the certificate they began with.
func (m *Member) become(id Identity, cert *x509.Certificate) error {
	client, err := m.connect(id)
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

// connect makes a client that shows an identity's certificate.
func (m *Member) connect(id Identity) (*api.Client, error) {
	chain := [][]byte{id.Certificate}
	if !bytes.Equal(id.Issuer, id.Certificate) {
		chain = append(chain, id.Issuer)
	}
	cert := &tls.Certificate{Certificate: chain, PrivateKey: m.key}
	return api.NewClient(api.Options{
		URL: id.URL, Pin: id.Pin, Attempts: m.o.Attempts, Certificate: func() (*tls.Certificate, error) { return cert, nil },
	})
}
