package delivery

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// errClosed ends a fetch whose download window ends.
var errClosed = errors.New("the download window has closed")

// windowCheck is how often the time of day is looked at.
const windowCheck = 20 * time.Second

// whileOpen runs do in the download windows: it waits for one, cuts do short
// when it closes, and goes on in the next. What came is not lost.
func (in *install) whileOpen(ctx context.Context, do func(context.Context) error) error {
	open := func() bool { return in.want.Urgent || fleet.InWindow(in.o.Windows, time.Now()) }
	for {
		for !open() {
			in.waitsFor("its download window, " + windows(in.o.Windows))
			if err := sleep(ctx, windowCheck); err != nil {
				return err
			}
		}
		in.waitsFor("")
		if in.want.Urgent || len(in.o.Windows) == 0 {
			return do(ctx)
		}
		err := in.until(ctx, open, do)
		if !errors.Is(err, errClosed) {
			return err
		}
	}
}

// until runs do and cancels it when open no longer holds; then the error is
// errClosed.
func (in *install) until(ctx context.Context, open func() bool, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, windowCheck) == nil {
			if !open() {
				cancel(errClosed)
			}
		}
	}()
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errClosed) {
		err = errClosed
	}
	cancel(nil)
	<-done
	return err
}

// waitsFor reports that nothing moves and why; "": it does.
func (in *install) waitsFor(what string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.progress.Waits == what {
		return
	}
	in.progress.Waits, in.progress.Trouble, in.lastGood = what, nil, time.Now()
	in.tellProgress()
}

func windows(ws []fleet.Window) string {
	var parts []string
	for _, w := range ws {
		parts = append(parts, w.String())
	}
	return strings.Join(parts, ", ")
}
