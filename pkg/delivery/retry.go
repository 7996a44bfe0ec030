package delivery

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// persist calls try until it succeeds, fails for good, or nothing at all was
// verified for as long as the patience lasts. Waits have full jitter and are at
// least what the store asked for. After one source wore the patience out there
// is none for the next, until something succeeds: an outage is waited for once.
func (j *job) persist(ctx context.Context, try func(context.Context) error) error {
	j.mu.Lock()
	began := j.lastGood
	j.mu.Unlock()
	if now := time.Now(); now.Sub(began) > j.o.Stall {
		began = now // other work came between
	}
	for n := 0; ; n++ {
		err := try(ctx)
		j.mu.Lock()
		if err == nil {
			j.weary = false
			j.fails, j.progress.Trouble = 0, nil
		}
		weary := j.weary
		if j.lastGood.After(began) {
			began, n = j.lastGood, 0
		}
		j.mu.Unlock()
		if err == nil || ctx.Err() != nil || !fault.Is(err, fault.Transient) {
			return err
		}
		j.failed(err)
		left := j.o.Patience - time.Since(began)
		wait := rand.N(min(10*time.Second, 200*time.Millisecond<<min(n, 6)))
		if after, ok := registry.RetryAfter(err); ok {
			wait += after
		}
		if wait > left || weary {
			j.mu.Lock()
			j.weary = true
			j.mu.Unlock()
			return fault.New(fault.Transient, "install", j.want.Manifest.Name, err).
				WithHint("the network or the store is in trouble; the install goes on from here when it is tried again")
		}
		j.o.Logger.Debug("read failed, tried again", "wait", wait, "err", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}
