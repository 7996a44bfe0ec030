package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

// timeAnswer is a coordinator's word for the time and the nonce it was asked with.
type timeAnswer struct {
	nonce  trust.Nonce
	signed trust.SignedTime
}

// timekeeper asks the coordinator for its signed time, rarely, because signing
// costs: at the start, when something said that the clock is wrong, and each hour
// in which nobody said how late it is.
type timekeeper struct {
	ask     func(context.Context, trust.Nonce) (trust.SignedTime, error)
	answers chan timeAnswer
	doubt   chan struct{} // something says that the clock is wrong
	heard   chan struct{} // somebody said how late it is, and it agrees
}

func newTimekeeper(ask func(context.Context, trust.Nonce) (trust.SignedTime, error)) *timekeeper {
	return &timekeeper{ask: ask, answers: make(chan timeAnswer, 1), doubt: make(chan struct{}, 1), heard: make(chan struct{}, 1)}
}

const (
	askEvery = time.Hour
	askAgain = 10 * time.Minute // the least pause between two questions out of doubt
)

// doubts has the time asked for soon.
func (k *timekeeper) doubts() { nudge(k.doubt) }

// agrees puts off the next question.
func (k *timekeeper) agrees() { nudge(k.heard) }

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is enough
	}
}

// run asks until ctx ends.
func (k *timekeeper) run(ctx context.Context) {
	var doubted time.Time // when a doubt last made it ask
	for {
		n := trust.NewNonce()
		if signed, err := k.ask(ctx, n); err == nil {
			select {
			case k.answers <- timeAnswer{n, signed}:
			case <-ctx.Done():
				return
			}
		} // that a coordinator cannot be asked is told by who needs it more
		if !k.wait(ctx, &doubted) {
			return
		}
	}
}

// wait returns when it is time to ask again, and reports whether ctx outlived it.
// Members that started together must not ask together.
func (k *timekeeper) wait(ctx context.Context, doubted *time.Time) bool {
	every, doubt := askEvery+rand.N(askEvery/4), false
	due := time.NewTimer(every)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-due.C:
			if doubt {
				*doubted = time.Now()
			}
			return true
		case <-k.heard:
			due.Reset(every)
			doubt = false
		case <-k.doubt:
			if !doubt {
				due.Reset(max(0, askAgain-time.Since(*doubted)))
				doubt = true
			}
		}
	}
}
