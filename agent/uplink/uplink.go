package uplink

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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
	// Heard is told that the coordinator answered just now, Away that it could not be
	// asked for packs. Nil: nobody is. Neither may block.
	Heard, Away func()
	// OnRenew is told of each renewal, and whether the member came back by its key.
	OnRenew func(id identity.Identity, back bool)
	// Now is how late it is as far as the device can know; default time.Now.
	Now func() time.Time
	// Listed is the device CAs of the newest trust pack; nil: none is known. When they
	// change, a member of an older one renews before its time.
	Listed func() []*x509.Certificate
	// GossipAddr is where the cell can reach this member; "" when it cannot.
	GossipAddr func() string
	Logger     *slog.Logger
}

// Uplink speaks to the coordinator as an enrolled member. Make it with [New]; it
// is safe for concurrent use.
type Uplink struct {
	o      Options
	doubts chan struct{} // what a renewal goes by has changed; of capacity 1
	doubt  atomic.Bool   // the coordinator does not believe the certificate
}

// New returns an uplink; it connects when something is asked of it.
func New(o Options) *Uplink {
	if o.Poll <= 0 {
		o.Poll = 50 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Listed == nil {
		o.Listed = func() []*x509.Certificate { return nil }
	}
	if o.Heard == nil {
		o.Heard = func() {}
	}
	if o.Away == nil {
		o.Away = func() {}
	}
	return &Uplink{o: o, doubts: make(chan struct{}, 1)}
}

// Enrol enrols a device. It tries until ctx ends as long as the trouble is the
// network's, or an operator has yet to approve the device; a token that is refused,
// or a coordinator that is not the token's, is an error at once.
func Enrol(ctx context.Context, o identity.Options, n identity.Newcomer, log *slog.Logger) (*identity.Member, identity.Enrolment, error) {
	for try := 1; ; try++ {
		m, first, err := identity.Enrol(ctx, o, n)
		if err == nil || !fault.KindOf(err).Retry() {
			return m, first, err
		}
		wait := backoff(try, time.Minute)
		if w, ok := errors.AsType[*identity.Waiting](err); ok {
			wait += min(w.After, time.Minute)
		}
		if try == 1 && log != nil {
			log.Warn("not enrolled yet", "device", n.ID, "err", err, "hint", fault.Hint(err))
		}
		if !pause(ctx, wait) {
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
	r, err := u.o.Member.Client().SendRows(ctx, cell, batch, u.gossipAddr())
	if err == nil {
		u.o.Heard()
	}
	return r, u.judged(err)
}

// judged notes when the coordinator does not believe the certificate: it is to be
// renewed at once, or come back for, whatever the clock here says.
func (u *Uplink) judged(err error) error {
	if fault.Is(err, fault.Untrusted) && u.doubt.CompareAndSwap(false, true) {
		u.reconsider()
	}
	return err
}

// reconsider has the renewal look again at what it goes by.
func (u *Uplink) reconsider() {
	select {
	case u.doubts <- struct{}{}:
	default:
	}
}

// Presign asks for URLs to objects in the bucket.
func (u *Uplink) Presign(ctx context.Context, keys []string) ([]string, time.Time, error) {
	r, err := u.o.Member.Client().Presign(ctx, keys)
	return r.URLs, r.Expires, u.judged(err)
}

// PackURL asks for a URL of the group's pack that outlives the coordinator.
func (u *Uplink) PackURL(ctx context.Context) (api.PackURL, error) {
	r, err := u.o.Member.Client().PackURL(ctx, u.o.Member.Identity().Facts.Group)
	return r, u.judged(err)
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
		switch {
		case err == nil:
			u.o.Heard()
		case ctx.Err() == nil:
			u.o.Away()
		}
		if err == nil && !r.NotModified {
			if err = u.o.OnPack(ctx, r.Pack); err == nil || !fault.KindOf(err).Retry() {
				// A pack that was refused is not fetched again and again: the next
				// one is waited for. The refusal was reported by who refused it.
				etag, err = r.ETag, nil
			}
			u.reconsider() // it may list another device CA
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
		pause(ctx, backoff(failed, time.Minute))
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

func (u *Uplink) gossipAddr() string {
	if u.o.GossipAddr == nil {
		return ""
	}
	return u.o.GossipAddr()
}

// backoff is the pause after the n-th failure in a row: uniform up to a bound
// that doubles from half a second to most.
func backoff(n int, most time.Duration) time.Duration {
	return rand.N(min(most, 500*time.Millisecond<<min(n, 20)))
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
