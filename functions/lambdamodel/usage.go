package lambdamodel

import (
	"context"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// usage counts what the function observed and sends it as signed rows.
type usage struct {
	m     *member
	rec   *telemetry.Recorder
	codec *telemetry.Codec

	sending sync.Mutex // one report at a time

	mu       sync.Mutex
	sent     time.Time // when the newest report was begun
	late     int       // reports in a row that overran the budget
	failures int       // reports in a row that failed
	openTill time.Time // no report before: the breaker is open
}

// The breaker keeps a coordinator in trouble from costing the function anything:
// after so many late reports in a row no invocation waits for one, until one is
// in time again; after so many failed ones none is tried for a while.
const (
	breakerTrips = 3
	breakerPause = 30 * time.Second
)

// eagerReports is how many invocations of an environment report at their end.
const eagerReports = 20

// sendTimeout bounds a report that goes on beside later invocations.
const sendTimeout = 5 * time.Second

// noCell is the cell of those who have none.
const noCell = "-"

func newUsage(m *member) (*usage, error) {
	key, err := telemetry.KeyIDOf(m.me.Key().ECDSA())
	if err != nil {
		return nil, err
	}
	u := &usage{m: m}
	if u.codec, err = telemetry.NewCodec(); err != nil {
		return nil, err
	}
	u.rec, err = telemetry.NewRecorder(telemetry.RecorderOptions{Key: key, Epoch: m.mem.Epoch, Window: m.o.Window, Agent: m.o.Version})
	return u, err
}

// update tells the recorder how the member stands now.
func (u *usage) update(now time.Time) {
	m := u.m
	m.mu.Lock()
	state, member := m.report(now)
	failed := m.failed
	m.failed = nil
	m.mu.Unlock()
	u.rec.SetMember(member)
	// A row has room for this function's one model.
	if err := u.rec.SetModel(m.o.Model, now, state); err != nil {
		m.o.Logger.Error("model is not reported", "model", m.o.Model, "err", err)
	}
	for _, root := range failed {
		if err := u.rec.Fatal(m.o.Model, now, root); err != nil {
			m.o.Logger.Debug("failure not counted", "model", m.o.Model, "err", err)
		}
	}
}

// report is how the member stands; mu is held.
func (m *member) report(now time.Time) (telemetry.ModelState, telemetry.MemberState) {
	ms := telemetry.MemberState{Directive: m.mem.Trust.Sequence, RSS: telemetry.ResidentKiB()}
	if h := m.mem.Trust.Audit.Head; h.Size > 0 {
		ms.Log = telemetry.LogHead{Size: h.Size, Root: [16]byte(h.Root[:])}
	}
	if m.trusted != nil {
		ms.Freshness = telemetry.Fresh
		if !m.fresh() {
			ms.Freshness = telemetry.Stale
		}
	}
	if m.distrust != "" {
		ms.Freshness, ms.Refusal = telemetry.Untrusted, m.distrust.Code()
	}
	st := telemetry.ModelState{Rollout: m.want.Rollout, Arm: m.want.Arm}
	if s := m.mem.Serving; s != nil {
		st.Running, st.Phase = s.Root, fleet.Healthy
		if s.soaking(now) {
			st.Phase = fleet.Soaking
		}
	}
	if m.want.Release == nil {
		return st, ms
	}
	root := m.want.Variant.Root
	if f, bad := m.mem.Quarantined[root.String()]; bad {
		st.Target, st.Phase, st.Failure, st.Code = root, fleet.Quarantined, fleet.ReleaseFailure, f.Code
	} else if root != st.Running {
		st.Target, st.Phase, st.Total = root, fleet.Offered, uint64(max(m.want.Variant.Size, 0))
		if m.problem != nil {
			st.Failure, st.Code = fleet.TransportFailure, telemetry.CodeNetwork
		}
		if fault.Is(m.problem, fault.Exhausted) {
			st.Failure, st.Code = fleet.MemberFailure, telemetry.CodeDiskFull
		}
	}
	return st, ms
}

// observe counts one invocation of a release.
func (u *usage) observe(now time.Time, o telemetry.Observation) {
	if err := u.rec.Observe(u.m.o.Model, now, o); err != nil {
		u.m.o.Logger.Debug("observation not counted", "model", u.m.o.Model, "err", err)
	}
}

// begin reports whether a report should be sent now, and notes that it is.
func (u *usage) begin(now time.Time, always bool) bool {
	now = now.Round(0)
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Before(u.openTill) && u.openTill.Sub(now) <= breakerPause {
		return false
	}
	if !always && now.Sub(u.sent).Abs() < u.m.o.Report {
		return false
	}
	u.sent = now
	return true
}

// ended tells the breaker how a report went.
func (u *usage) ended(now time.Time, took time.Duration, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.late++; took <= u.m.o.FlushBudget {
		u.late = 0
	}
	if err == nil {
		u.failures = 0
		return
	}
	u.m.o.Logger.Info("report waits", "kind", fault.KindOf(err).String(), "err", err)
	if u.failures++; u.failures >= breakerTrips {
		u.failures, u.openTill = 0, now.Round(0).Add(breakerPause)
		u.m.o.Logger.Warn("reports are held back", "after", breakerTrips)
	}
}

// patient reports whether waiting for a report is worth an invocation's time.
func (u *usage) patient() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.late < breakerTrips
}

// send sends one report; done is closed at its end. Rows are cumulative, so a
// report that was lost costs nothing but time.
func (u *usage) send(ctx context.Context) (done chan struct{}) {
	done = make(chan struct{})
	if !u.sending.TryLock() {
		close(done) // the one under way says nearly the same
		return done
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	go func() {
		defer close(done)
		defer u.sending.Unlock()
		defer cancel()
		began := time.Now()
		err := u.sendRow(ctx, began)
		u.ended(time.Now(), time.Since(began), err)
	}()
	return done
}

func (u *usage) sendRow(ctx context.Context, now time.Time) error {
	u.update(now)
	me := u.m.me
	msgs, row, err := u.rec.Report(now, me.Identity().Fleet, me.Key())
	if err != nil {
		return err
	}
	batch, err := u.codec.Encode(msgs)
	if err != nil {
		return err
	}
	reply, err := me.Client().SendRows(ctx, noCell, batch, "")
	if err != nil {
		return err
	}
	if len(reply.Refused) > 0 {
		return fault.Newf(fault.Denied, "send report", reply.Refused[0].Member, "%s", reply.Refused[0].Reason)
	}
	u.rec.Acked(row.Seq)
	u.m.hear(ctx, reply.Time)
	if reply.Directive > row.Directive {
		u.m.hurry()
	}
	return nil
}

// hurry makes the next invocation look at the directive: there is a newer one.
func (m *member) hurry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refreshAt = time.Time{}
}
