package intake

import (
	"cmp"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// fetch is a download under way, by a member's rows one after the other.
type fetch struct {
	target telemetry.Prefix
	epoch  uint64
	pace   telemetry.Pace // of what arrives, by the member's clock
}

type fetchKey struct {
	telemetry.KeyID
	model telemetry.Prefix
}

// follow takes note of how far a member's downloads are by its newest row. The
// caller holds mu.
func (in *Intake) follow(r *telemetry.Row) {
	for _, m := range r.Models {
		k := fetchKey{r.Key, m.Model}
		if m.Phase != fleet.Downloading {
			delete(in.fetches, k)
			continue
		}
		f := in.fetches[k]
		if f.target != m.Target || f.epoch != r.Epoch {
			f = fetch{target: m.Target, epoch: r.Epoch}
		}
		f.pace = f.pace.At(r.At(), m.Fetched.Arrived())
		in.fetches[k] = f
	}
}

// Pace is how fast a member's download of a model goes; of one that is silent,
// or downloads nothing, nothing is known.
func (in *Intake) Pace(key telemetry.KeyID, model telemetry.Prefix, now time.Time) telemetry.Pace {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.pace(key, model, now)
}

func (in *Intake) pace(key telemetry.KeyID, model telemetry.Prefix, now time.Time) telemetry.Pace {
	if l, ok := in.newest[key]; !ok || !in.reach(l.row, l.received, now) {
		return telemetry.Pace{}
	}
	return in.fetches[fetchKey{key, model}].pace
}

// Delivered is what all members fetched, by their rows since this start: each
// byte once, however often and by whatever way a row came.
func (in *Intake) Delivered() telemetry.Delivery {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.counted
}

// FailingSince is since when a model fails on a member, by this clock: the
// member's own may be wrong, but it knows how long ago it was.
func (r Report) FailingSince(m telemetry.Model) time.Time {
	if m.Failing == 0 {
		return time.Time{}
	}
	ago := time.Duration(max(0, r.Row.Time-m.Failing)) * time.Second
	return r.Received.Add(-ago).UTC().Truncate(time.Second)
}

// Fetching sums up the members that a rollout exposes and that answer: those that
// download its release now, and those that cannot, by the reason.
func (in *Intake) Fetching(id fleet.RolloutID, model fleet.ModelName, now time.Time) (*api.FetchingInfo, []api.StuckInfo) {
	rollout, name := telemetry.RolloutPrefix(id), telemetry.ModelPrefix(model)
	sum := fetchSum{stuck: map[stuckKey]api.StuckInfo{}}
	in.mu.RLock()
	defer in.mu.RUnlock()
	for key, l := range in.newest {
		m, ok := l.row.Model(name)
		if !ok || m.Rollout != rollout || m.Arm != fleet.Exposed || !in.reach(l.row, l.received, now) {
			continue
		}
		if member, _, known := in.o.Directory.ByKey(key); !known || member.Revoked || member.Locked != "" {
			continue
		}
		sum.add(m, in.fetches[fetchKey{key, name}].pace, Report{Row: *l.row, Received: l.received}.FailingSince(m))
	}
	return sum.result()
}

type stuckKey struct {
	class fleet.FailureClass
	code  string
}

// fetchSum adds members up.
type fetchSum struct {
	api.FetchingInfo
	unknown bool // how long one of them needs
	stuck   map[stuckKey]api.StuckInfo
}

func (s *fetchSum) add(m telemetry.Model, pace telemetry.Pace, failing time.Time) {
	rate, known := pace.Rate()
	st := api.ModelStatus{Phase: m.Phase, Failure: m.Failure}
	if st.Stuck() && rate <= 0 {
		k := stuckKey{m.Failure, m.Code.String()}
		x, seen := s.stuck[k]
		if !seen || failing.Before(x.Since) {
			x.Since = failing
		}
		x.Failure, x.Code, x.Members = k.class, k.code, x.Members+1
		s.stuck[k] = x
		return
	}
	if m.Phase != fleet.Downloading {
		return
	}
	s.Members++
	s.Done += int64(m.Fetched.Done())
	s.Total += int64(m.Total)
	s.From = s.From.Plus(SourcesOf(m.Fetched))
	if known {
		s.Rate += int64(rate)
	}
	left, ok := pace.Left(m.Total - min(m.Total, m.Fetched.Done()))
	s.Left = max(s.Left, fleet.Duration(left))
	s.unknown = s.unknown || !ok
}

func (s *fetchSum) result() (*api.FetchingInfo, []api.StuckInfo) {
	var stuck []api.StuckInfo
	for _, x := range s.stuck {
		stuck = append(stuck, x)
	}
	slices.SortFunc(stuck, func(a, b api.StuckInfo) int {
		return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Failure, b.Failure))
	})
	if s.Members == 0 {
		return nil, stuck
	}
	if s.unknown {
		s.Left = 0
	}
	return &s.FetchingInfo, stuck
}

// SourcesOf is where bytes came from, as people are told.
func SourcesOf(f telemetry.Fetched) api.Sources {
	return api.Sources{Copy: int64(f.Copy), Delta: int64(f.Delta), Peer: int64(f.Peer), Bucket: int64(f.Bucket)}
}
