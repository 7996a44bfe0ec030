package uplink

import (
	"context"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

const (
	// lookAgain bounds one wait of the renewal: the clock it goes by may jump.
	lookAgain = time.Hour
	// doubtPause is how long after an attempt that was made because the coordinator
	// doubts the certificate another one is.
	doubtPause = time.Minute
	// deniedPause bounds the pause after a refusal that only an operator can end.
	deniedPause = 15 * time.Minute
)

// renewal is what is known of when to renew.
type renewal struct {
	failed  int           // attempts in a row
	pause   time.Duration // after them
	tried   time.Time     // when the newest attempt was made, by the monotonic clock
	doubted time.Time     // and the newest one for a doubt
	early   time.Time     // when to renew for a newer device CA; zero: no need
}

// renewLoop renews the certificate: at its time, before it when the fleet has a
// newer device CA, and at once when the coordinator does not believe it any more.
func (u *Uplink) renewLoop(ctx context.Context) {
	var r renewal
	for ctx.Err() == nil {
		if wait := u.untilRenewal(&r); wait > 0 {
			u.await(ctx, min(wait, lookAgain))
			continue
		}
		u.renew(ctx, &r)
	}
}

// untilRenewal is how long there is to wait before the next attempt.
func (u *Uplink) untilRenewal(r *renewal) time.Duration {
	if r.failed > 0 {
		return time.Until(r.tried.Add(r.pause))
	}
	if u.doubt.Load() {
		if r.doubted.IsZero() {
			return 0
		}
		return time.Until(r.doubted.Add(doubtPause))
	}
	now := u.o.Now()
	at, outdated := u.o.Member.Outdated(u.o.Listed(), now)
	switch {
	case !outdated:
		r.early = time.Time{}
	case r.early.IsZero() || at.Before(r.early):
		r.early = at
	}
	due := u.o.Member.RenewAt()
	if !r.early.IsZero() && r.early.Before(due) {
		due = r.early
	}
	return due.Sub(now)
}

// await waits, but not through news.
func (u *Uplink) await(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-u.doubts:
	case <-ctx.Done():
	}
}

func (u *Uplink) renew(ctx context.Context, r *renewal) {
	r.tried = time.Now()
	if u.doubt.Load() {
		r.doubted = r.tried
	}
	back, err := u.o.Member.Renew(ctx, identity.Renewal{GossipAddr: u.gossipAddr(), Listed: u.o.Listed()})
	if err != nil {
		most := time.Minute
		if fault.Is(err, fault.Denied) {
			most = deniedPause
		}
		r.pause = backoff(r.failed+5, most) // there is a third of its life left, or nothing to lose: no hurry
		if r.failed++; r.failed == 1 && ctx.Err() == nil {
			u.o.Logger.Warn("certificate was not renewed", "err", err, "kind", fault.KindOf(err).String(), "hint", fault.Hint(err))
		}
		return
	}
	r.failed, r.early = 0, time.Time{}
	u.doubt.Store(false)
	id := u.o.Member.Identity()
	if back {
		u.o.Logger.Warn("came back by the key: the coordinator did not believe the certificate any more", "generation", id.Generation, "certificate", fleet.DigestOf(id.Certificate).Short())
	} else {
		u.o.Logger.Info("certificate renewed", "generation", id.Generation, "certificate", fleet.DigestOf(id.Certificate).Short())
	}
	if u.o.OnRenew != nil {
		u.o.OnRenew(id, back)
	}
}
