package uplink

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// Options says how an enrolled member reaches its coordinator.
type Options struct {
	Dir      string // where the identity is kept
	Identity Identity
	Key      *signer.Signer
	// Poll is how long one wait for a pack lasts; default 50 s.
	Poll time.Duration
	// OnPack is given each pack the coordinator has, by one goroutine. An error
	// means that it was refused; the same pack is then asked for again later.
	OnPack func(ctx context.Context, pack []byte) error
	// Idle reports whether others of the cell bring packs here just now; the
	// coordinator is then asked only every ten waits. Nil: never.
	Idle func() bool
	// OnRenew is told of each renewal.
	OnRenew func(Identity)
	// GossipAddr is where the cell can reach this member; "" when it cannot.
	GossipAddr func() string
	Logger     *slog.Logger
}

// Uplink speaks to the coordinator as an enrolled member. Make it with [New]; it
// is safe for concurrent use.
type Uplink struct {
	o Options

	mu     sync.Mutex  // guards the rest
	id     Identity    // persisted before it is set
	client *api.Client // shows id's certificate
}

// New returns an uplink; it connects when something is asked of it.
func New(o Options) (*Uplink, error) {
	if o.Poll <= 0 {
		o.Poll = 50 * time.Second
	}
	client, err := o.Identity.client(o.Key)
	return &Uplink{o: o, id: o.Identity, client: client}, err
}

// client makes a client that shows this identity's certificate. A renewed one
// needs another: connections that are open go on with the certificate they began
// with.
func (id Identity) client(key *signer.Signer) (*api.Client, error) {
	cert := id.tlsCertificate(key)
	return api.NewClient(api.Options{
		URL: id.URL, Pin: id.Pin, Certificate: func() (*tls.Certificate, error) { return cert, nil },
	})
}

func (u *Uplink) api() *api.Client {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.client
}

// Identity is who the member is now.
func (u *Uplink) Identity() Identity {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.id
}

// Run renews the certificate and waits for packs until ctx ends.
func (u *Uplink) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { u.renewLoop(ctx) })
	wg.Go(func() { u.packLoop(ctx) })
	wg.Wait()
	u.api().Close()
}

// SendRows hands a batch of signed rows to the coordinator.
func (u *Uplink) SendRows(ctx context.Context, batch []byte) (api.RowsReply, error) {
	cell := u.Identity().Cell.ID
	if cell == "" {
		cell = "-"
	}
	return u.api().SendRows(ctx, cell, batch, u.gossipAddr())
}

// Presign asks for URLs to objects in the bucket.
func (u *Uplink) Presign(ctx context.Context, keys []string) ([]string, time.Time, error) {
	r, err := u.api().Presign(ctx, keys)
	return r.URLs, r.Expires, err
}

// packLoop waits for packs. It asks with what it was given last, so that the
// coordinator answers at once when there is something newer.
func (u *Uplink) packLoop(ctx context.Context) {
	etag, failed := "", 0
	for asked := false; ctx.Err() == nil; asked = true {
		if asked && !u.idle(ctx) {
			return
		}
		r, err := u.api().Pack(ctx, u.Identity().Facts.Group, etag, u.o.Poll)
		if err == nil && !r.NotModified {
			if err = u.o.OnPack(ctx, r.Pack); err == nil || !fault.KindOf(err).Retry() {
				// A pack that was refused is not fetched again and again: the next
				// one is waited for. The refusal was reported by who refused it.
				etag, err = r.ETag, nil
			}
		}
		if err == nil {
			if failed > 0 {
				u.o.Logger.Info("coordinator is back", "after", failed)
			}
			failed = 0
			continue
		}
		if failed++; failed == 1 && ctx.Err() == nil {
			u.o.Logger.Warn("coordinator cannot be asked for packs", "err", err, "kind", fault.KindOf(err).String())
		}
		pause(ctx, backoff(failed))
	}
}

// idle waits as long as others bring packs, and reports whether ctx outlived it.
func (u *Uplink) idle(ctx context.Context) bool {
	until := time.Now().Add(10 * u.o.Poll)
	for u.o.Idle != nil && u.o.Idle() && time.Now().Before(until) {
		if !pause(ctx, time.Second) {
			return false
		}
	}
	return ctx.Err() == nil
}

// renewLoop gets a new certificate at two thirds of the life of each.
func (u *Uplink) renewLoop(ctx context.Context) {
	for failed := 0; ; {
		at, err := u.Identity().renewAt()
		wait := time.Until(at)
		if err != nil || failed > 0 {
			wait = backoff(failed + 4) // there is a third of its life left: no hurry
		}
		if !pause(ctx, max(wait, 0)) {
			return
		}
		if err := u.renew(ctx); err != nil {
			if failed++; failed == 1 && ctx.Err() == nil {
				u.o.Logger.Warn("certificate was not renewed", "err", err, "kind", fault.KindOf(err).String())
			}
			continue
		}
		failed = 0
		u.o.Logger.Info("certificate renewed", "generation", u.Identity().Generation)
	}
}

func (u *Uplink) renew(ctx context.Context) error {
	id := u.Identity()
	csr, err := request(u.o.Key, id.Facts.ID)
	if err != nil {
		return err
	}
	client, err := id.client(u.o.Key) // whose connection surely shows the newest certificate
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.Renew(ctx, api.RenewRequest{CSR: csr, Generation: id.Generation, GossipAddr: u.gossipAddr()})
	if err != nil {
		return err
	}
	cert, name, err := checkCertificate(r.Certificate, r.DeviceCA, id.Facts.ID, u.o.Key.ECDSA())
	if err != nil {
		return err
	}
	if name != id.Fleet {
		return fault.Newf(fault.Untrusted, "renew certificate", string(id.Facts.ID), "it is of fleet %s, this is a member of %s", name, id.Fleet)
	}
	id.Certificate, id.Issuer, id.Generation, id.Cell = cert.Raw, r.DeviceCA, r.Generation, r.Cell
	if err := id.save(u.o.Dir); err != nil {
		return err
	}
	next, err := id.client(u.o.Key)
	if err != nil {
		return err
	}
	u.mu.Lock()
	old := u.client
	u.id, u.client = id, next
	u.mu.Unlock()
	old.Close()
	if u.o.OnRenew != nil {
		u.o.OnRenew(id)
	}
	return nil
}

func (u *Uplink) gossipAddr() string {
	if u.o.GossipAddr == nil {
		return ""
	}
	return u.o.GossipAddr()
}

// backoff is the pause after the n-th failure in a row: uniform up to a bound
// that doubles from half a second to a minute.
func backoff(n int) time.Duration {
	return rand.N(min(time.Minute, 500*time.Millisecond<<min(n, 10)))
}

// pause waits, and reports whether ctx outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
