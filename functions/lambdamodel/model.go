package lambdamodel

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Model is a model of type T in one execution environment. It is safe for
// concurrent use; whether T is, its author knows.
type Model[T any] struct {
	m       *member
	u       *usage
	load    func(Release) (T, error)
	current atomic.Pointer[loaded[T]]

	invocations atomic.Int64
	refreshing  atomic.Bool
}

type loaded[T any] struct {
	release Release
	model   T
}

// Open enrols the environment, or takes up what it was, and brings the model in
// within Options.InitBudget. load opens a release's files; it may be called
// again at any time, for another release.
func Open[T any](ctx context.Context, o Options, load func(Release) (T, error)) (*Model[T], error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	m := &Model[T]{load: load}
	ctx, cancel := context.WithTimeout(ctx, o.InitBudget)
	defer cancel()
	var err error
	if m.m, err = newMember(ctx, o, m.use, func() { m.current.Store(nil) }); err != nil {
		return nil, err
	}
	if m.u, err = newUsage(m.m); err != nil {
		return nil, err
	}
	if err := m.m.resume(); err != nil {
		return nil, err
	}
	m.m.due(time.Now()) // draws the time of the next
	err = m.m.refresh(ctx)
	m.u.update(time.Now())
	switch {
	case o.Require == Fresh && err != nil:
		return nil, err
	case o.Require == Fresh && m.current.Load() == nil:
		return nil, noModel(o.Model)
	case err != nil:
		o.Logger.Warn("started without news of the fleet", "model", o.Model, "kind", fault.KindOf(err).String(), "err", err)
		m.m.hurry()
	}
	return m, nil
}

func noModel(name fleet.ModelName) error {
	return fault.Newf(fault.NotFound, "find model", string(name), "no release of it is in service here").
		WithHint("is there a stable release for this function's group and class? ask `modelfleet members explain`")
}

// use loads a release and serves it from the next invocation on.
func (m *Model[T]) use(r Release) error {
	model, err := m.load(r)
	if err != nil {
		return err
	}
	m.current.Store(&loaded[T]{r, model})
	return nil
}

// Current is the model in service. It takes less than a microsecond. The error
// is NotFound when there is none, and Untrusted when the directive is past its
// validity and Options.OnStale refuses that.
func (m *Model[T]) Current() (T, Release, error) {
	l := m.current.Load()
	if l == nil {
		var none T
		return none, Release{}, m.m.nothing()
	}
	if m.m.o.OnStale == RefuseStale {
		if err := m.m.stale(); err != nil {
			var none T
			return none, Release{}, err
		}
	}
	return l.model, l.release, nil
}

// stale is an error when no directive was verified that is still valid.
func (m *member) stale() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trusted == nil {
		return fault.Newf(fault.Untrusted, "serve model", string(m.o.Model), "no directive was verified since the start")
	}
	if !m.fresh() {
		return fault.Newf(fault.Untrusted, "serve model", string(m.o.Model), "the directive was valid until %s", m.trusted.Expires)
	}
	return nil
}

// Member is who this environment is in its fleet.
func (m *Model[T]) Member() fleet.MemberID { return m.m.me.Identity().Facts.ID }

// closeBudget is how long the last report may take: Lambda gives a function with
// an internal extension 500 ms.
const closeBudget = 300 * time.Millisecond

// Close sends the last report. It is for the end of the environment (SIGTERM).
func (m *Model[T]) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeBudget)
	defer cancel()
	m.m.mu.Lock()
	m.m.mem.Ended = true
	err := m.m.save()
	m.m.mu.Unlock()
	if err != nil {
		m.m.o.Logger.Warn("state not kept", "err", err)
	}
	m.u.sending.Lock()
	//lint:ignore SA2001 waiting for a report under way is the point: the last one says more
	m.u.sending.Unlock()
	<-m.u.send(ctx)
	m.m.me.Close()
}

// Call is one invocation's view of the model.
type Call[T any] struct {
	Model   T
	Release Release
	score   *float64
	right   *bool
}

// Score notes what was predicted, in [0, 1].
func (c *Call[T]) Score(v float64) { c.score = &v }

// Right notes whether the prediction was right, where the truth is known.
func (c *Call[T]) Right(v bool) { c.right = &v }

// Handler is a function's handler with the model it should use.
type Handler[T, In, Out any] func(ctx context.Context, call *Call[T], in In) (Out, error)

// Wrap makes a handler for package lambda of aws-lambda-go. It counts the
// invocation, refreshes beside the handler and reports after it.
func Wrap[T, In, Out any](m *Model[T], h Handler[T, In, Out]) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		after := m.beside()
		defer after()
		call := &Call[T]{}
		if call.Model, call.Release, err = m.Current(); err != nil {
			return out, err
		}
		began, failed := time.Now(), true // stays true when the handler panics
		defer func() { m.observe(call, began, failed) }()
		out, err = h(ctx, call, in)
		failed = err != nil
		return out, err
	}
}

func (m *Model[T]) observe(c *Call[T], began time.Time, failed bool) {
	now := time.Now()
	o := telemetry.Observation{Release: c.Release.Root, Latency: now.Sub(began), Err: failed}
	if !failed {
		o.Score, o.Right = c.score, c.right
	}
	m.u.observe(now, o)
	if err := m.m.settle(c.Release.Root, failed); err != nil {
		m.m.o.Logger.Error("state not kept", "err", err)
	}
}

// beside begins what runs next to a handler; the function returned is called at
// the handler's end and waits for it within the budgets.
func (m *Model[T]) beside() (after func()) {
	now := time.Now()
	n := m.invocations.Add(1)
	o := m.m.o
	refreshed := m.maybeRefresh(now)
	var reported chan struct{}
	if n > eagerReports && m.u.begin(now, false) {
		reported = m.u.send(context.Background())
	}
	return func() {
		within(refreshed, o.Grace)
		if n <= eagerReports && m.u.begin(time.Now(), true) {
			reported = m.u.send(context.Background())
		}
		if m.u.patient() {
			within(reported, o.FlushBudget)
		}
	}
}

// refreshTimeout bounds a refresh that goes on over several invocations.
const refreshTimeout = 10 * time.Minute

// maybeRefresh begins a refresh when one is due; nil when not.
func (m *Model[T]) maybeRefresh(now time.Time) chan struct{} {
	if m.refreshing.Load() || !m.m.due(now) || !m.refreshing.CompareAndSwap(false, true) {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer m.refreshing.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
		defer cancel()
		if err := m.m.refresh(ctx); err != nil {
			m.m.o.Logger.Warn("model was not refreshed", "model", m.m.o.Model, "kind", fault.KindOf(err).String(), "err", err)
		}
		m.u.update(time.Now())
	}()
	return done
}

// within waits for done, which may be nil, but no longer than limit.
func within(done chan struct{}, limit time.Duration) {
	if done == nil {
		return
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// Start opens the model and serves invocations with it until the environment
// ends. It returns only when it cannot begin.
func Start[T, In, Out any](o Options, load func(Release) (T, error), h Handler[T, In, Out]) error {
	m, err := Open(context.Background(), o, load)
	if err != nil {
		return err
	}
	lambda.StartWithOptions(Wrap(m, h), lambda.WithEnableSIGTERM(m.Close))
	return nil
}
