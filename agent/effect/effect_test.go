package effect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/effect"
	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

const model = fleet.ModelName("detector")

// source answers every read by what it is.
type source func(ctx context.Context) error

func (s source) Get(ctx context.Context, _, _ string) ([]byte, string, error) {
	return nil, "", s(ctx)
}

func (s source) Range(ctx context.Context, _ string, _, _ int64) (io.ReadCloser, error) {
	return nil, s(ctx)
}

// world is a runner of which the directive backs the one offer.
type world struct {
	*effect.Runner
	t       *testing.T
	answers chan update.Event
	dead    chan error
	fail    func(string) error
	offer   update.Offer
}

func newWorld(t *testing.T, s source) *world {
	t.Helper()
	dir := t.TempDir()
	store, err := cas.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	slots, err := slot.Open(slot.Options{Dir: filepath.Join(dir, "models")})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	fetcher, err := delivery.New(delivery.Options{Store: store, Source: s, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, answers: make(chan update.Event, 16), dead: make(chan error, 1), fail: func(string) error { return nil }}
	w.offer = update.Offer{Ref: "detector@1.0.0", Root: fleet.DigestOf([]byte("root")), Bundle: fleet.DigestOf([]byte("bundle")), Path: "models/x.oms"}
	w.Runner = effect.New(effect.Options{
		Store: store, Slots: slots, Source: s, Fetcher: fetcher, Logger: log, Dead: w.dead,
		Trusted:   func() *trust.Trusted { return &trust.Trusted{Releases: map[string]trust.Backing{"models/x.oms": {}}} },
		Keep:      func() []fleet.Digest { return nil },
		Answer:    func(_ context.Context, _ fleet.ModelName, ev update.Event) { w.answers <- ev },
		Progress:  func(update.Effect, delivery.Progress) {},
		Failpoint: func(point string) error { return w.fail(point) },
	})
	t.Cleanup(func() { w.Await(2 * time.Minute) })
	return w
}

func (w *world) effect(kind update.EffectKind) update.Effect {
	return update.Effect{Kind: kind, Model: model, Key: "k1", Offer: w.offer}
}

func (w *world) answer() update.Event {
	w.t.Helper()
	select {
	case ev := <-w.answers:
		return ev
	case <-time.After(2 * time.Minute):
		w.t.Fatal("no answer")
		return update.Event{}
	}
}

// Whatever goes wrong on the way, the release is not to blame.
func TestAFailedEffectSaysWhoIsToBlame(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		effect update.EffectKind
		err    error
		kind   update.EventKind
		class  fleet.FailureClass
		code   string
	}{
		{update.Fetch, fault.Newf(fault.Transient, "get", "x", "reset"), update.FetchFailed, fleet.TransportFailure, "network"},
		{update.Fetch, fault.Newf(fault.NotFound, "get", "x", "HTTP 404"), update.FetchFailed, fleet.TransportFailure, "missing"},
		{update.Fetch, fault.Newf(fault.Untrusted, "get", "x", "bits"), update.FetchFailed, fleet.TransportFailure, "corrupt"},
		{update.Fetch, fault.Newf(fault.Exhausted, "get", "x", "full"), update.FetchFailed, fleet.MemberFailure, "disk-full"},
		{update.Fetch, fault.Newf(fault.Internal, "get", "x", "EIO"), update.FetchFailed, fleet.MemberFailure, "io"},
		{update.Fetch, fault.Newf(fault.Invalid, "get", "x", "too new"), update.FetchFailed, fleet.MemberFailure, "incompatible"},
		{update.Fetch, fmt.Errorf("sign: %w: %w", effect.ErrNoSource, fault.Newf(fault.Invalid, "presign", "", "a folder")), update.FetchFailed, fleet.MemberFailure, "no-source"},
		{update.Probe, nil, update.ProbeFailed, fleet.MemberFailure, "self-test"},       // its files are gone
		{update.Switch, nil, update.SwitchFailed, fleet.MemberFailure, update.CodeGone}, // likewise
	} {
		w := newWorld(t, func(context.Context) error { return c.err })
		w.Do(t.Context(), w.effect(c.effect))
		ev := w.answer()
		if ev.Kind != c.kind || ev.Key != "k1" || ev.Failure.Class != c.class || ev.Failure.Code != c.code || ev.Failure.Text == "" {
			t.Errorf("%s, %v: answered %+v", c.effect, c.err, ev)
		}
	}
}

func TestAnEffectUnderWayIsNotBegunAgainAndMayBeCancelled(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 16)
	w := newWorld(t, func(ctx context.Context) error {
		begun <- struct{}{}
		<-ctx.Done()
		return fault.New(fault.Canceled, "get", "x", ctx.Err())
	})
	for range 3 {
		w.Do(t.Context(), w.effect(update.Fetch))
	}
	<-begun
	w.Do(t.Context(), w.effect(update.Cancel))
	w.Await(2 * time.Minute)
	if len(begun) > 0 || len(w.answers) > 0 {
		t.Errorf("begun %d times more, %d answers", len(begun), len(w.answers))
	}
}

// A bug that foreign bytes find in an effect is a failed effect: the next one and
// a collection go on.
func TestAPanicInAnEffectIsAFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(context.Context) error { panic("index out of range") })
	for range 2 {
		w.Do(t.Context(), w.effect(update.Fetch))
		ev := w.answer()
		if ev.Kind != update.FetchFailed || ev.Failure.Class != fleet.MemberFailure || !strings.Contains(ev.Failure.Text, "panic: index out of range") {
			t.Fatalf("answered %+v", ev)
		}
	}
	w.offer = update.Offer{}
	w.Do(t.Context(), w.effect(update.Switch))
	if ev := w.answer(); ev.Kind != update.Switched {
		t.Errorf("then answered %+v", ev)
	}
}

func TestAFailpointEndsAnEffectWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(context.Context) error { return nil })
	crash := errors.New("crash")
	w.fail = func(point string) error {
		if point == "after switch" {
			return crash
		}
		return nil
	}
	w.offer = update.Offer{} // switching to nothing works
	w.Do(t.Context(), w.effect(update.Switch))
	if err := <-w.dead; !errors.Is(err, crash) || len(w.answers) > 0 {
		t.Errorf("%v, %d answers", err, len(w.answers))
	}
}
