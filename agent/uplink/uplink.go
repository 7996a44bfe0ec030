package uplink

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

// Options says how an enrolled member reaches its coordinator.
type Options struct {
	Member *identity.Member
	// Poll is how long one wait for a pack lasts; default 50 s.
	Poll time.Duration
	// OnPack is given each pack the coordinator has, by one goroutine. After an
	// error that may pass by itself the same pack is asked for again; after any
	// other the next one is waited for: it was refused, or is kept for later.
	OnPack func(ctx context.Context, pack []byte) error
	// Idle reports whether others of the cell bring packs here just now; the
	// coordinator is then asked only every ten waits. Nil: never.
	Idle func() bool
	// OnRenew is told of each renewal.
	OnRenew func(identity.Identity)
	// GossipAddr is where the cell can reach this member; "" when it cannot.
	GossipAddr func() string
	Logger     *slog.Logger
}

// Uplink speaks to the coordinator as an enrolled member. Make it with [New]; it
// is safe for concurrent use.
type Uplink struct{ o Options }

// New returns an uplink; it connects when something is asked of it.
func New(o Options) *Uplink {
	if o.Poll <= 0 {
		o.Poll = 50 * time.Second
	}
	return &Uplink{o: o}
}

// Enrol enrols a device. It tries until ctx ends as long as the trouble is the
// network's; a token that is refused, or a coordinator that is not the token's,
// is an error at once.
func Enrol(ctx context.Context, o identity.Options, n identity.Newcomer) (*identity.Member, identity.Enrolment, error) {
	for try := 1; ; try++ {
		m, first, err := identity.Enrol(ctx, o, n)
		if err == nil || !fault.KindOf(err).Retry() || !pause(ctx, backoff(try)) {
			return m, first, err
		}
	}
}

// Run renews the certificate and waits for packs until ctx ends.
func (u *Uplink) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { u.renewLoop(ctx) })
	wg.Go(func() { u.packLoop(ctx) })
	wg.Wait()
	u.o.Member.Close()
}

// SendRows hands a batch of signed rows to the coordinator.
func (u *Uplink) SendRows(ctx context.Context, batch []byte) (api.RowsReply, error) {
	cell := cmp.Or(u.o.Member.Identity().Cell.ID, "-")
	return u.o.Member.Client().SendRows(ctx, cell, batch, u.gossipAddr())
}

// Presign asks for URLs to objects in the bucket.
func (u *Uplink) Presign(ctx context.Context, keys []string) ([]string, time.Time, error) {
	r, err := u.o.Member.Client().Presign(ctx, keys)
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
		r, err := u.o.Member.Client().Pack(ctx, u.o.Member.Identity().Facts.Group, etag, u.o.Poll)
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
		wait := time.Until(u.o.Member.RenewAt())
		if failed > 0 {
			wait = backoff(failed + 4) // there is a third of its life left: no hurry
		}
		if !pause(ctx, max(wait, 0)) {
			return
		}
		if err := u.o.Member.Renew(ctx, u.gossipAddr()); err != nil {
			if failed++; failed == 1 && ctx.Err() == nil {
				u.o.Logger.Warn("certificate was not renewed", "err", err, "kind", fault.KindOf(err).String())
			}
			continue
		}
		failed = 0
		id := u.o.Member.Identity()
		u.o.Logger.Info("certificate renewed", "generation", id.Generation)
		if u.o.OnRenew != nil {
			u.o.OnRenew(id)
		}
	}
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
