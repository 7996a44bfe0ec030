package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// sender gives Prometheus one figure.
type sender func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string)

// delivery gives what all members fetched since the start, by their rows.
func (c fleetCollector) delivery(send sender) {
	x := c.o.Intake.Delivered()
	fetched := desc("fetched_bytes_total", "Verified bytes of releases that members fetched, by where they came from.", "source")
	for _, p := range intake.SourcesOf(x.Fetched).Parts() {
		send(fetched, prometheus.CounterValue, float64(p.Bytes), p.Name)
	}
	send(desc("bucket_bytes_total", "Bytes that members took from the bucket as they travelled, wrong ones and repeats too."), prometheus.CounterValue, float64(x.Wire))
	send(desc("damaged_files_total", "Files that members found damaged on their disks."), prometheus.CounterValue, float64(x.Damaged))
	send(desc("liars_total", "Neighbours that members left out since they delivered what was not signed."), prometheus.CounterValue, float64(x.Liars))
}

// standings sum up how members that report stand with their models.
type standings struct {
	phases [fleet.Withdrawn + 1]int
	stuck  map[string]int // by code
	rate   float64
}

func (s *standings) add(m telemetry.Model, rate float64) {
	s.phases[min(m.Phase, fleet.Withdrawn)]++
	s.rate += rate
	if (api.ModelStatus{Phase: m.Phase, Failure: m.Failure}).Stuck() && rate <= 0 {
		if s.stuck == nil {
			s.stuck = map[string]int{}
		}
		s.stuck[m.Code.String()]++
	}
}

func (s *standings) send(send sender) {
	phases := desc("phases_count", "Models on members that report, by phase.", "phase")
	for p, n := range s.phases {
		send(phases, prometheus.GaugeValue, float64(n), fleet.Phase(p).String())
	}
	send(desc("download_bytes_per_second", "What arrives at the members that download now, all together."), prometheus.GaugeValue, s.rate)
	stuck := desc("stuck_count", "Models that members cannot bring in, by a reason that is not the release's.", "code")
	for code, n := range s.stuck {
		send(stuck, prometheus.GaugeValue, float64(n), code)
	}
}
