package httpapi

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// health gives how long each role and certificate is good for, and how many
// findings of each severity there are. Roles are bounded: a publisher each.
func (c fleetCollector) health(send func(*prometheus.Desc, prometheus.ValueType, float64, ...string)) {
	now := c.o.Now()
	facts, err := c.o.Publisher.Standing(now)
	if err != nil {
		c.o.Logger.Error("no figures of the fleet's keys", "err", err)
		return
	}
	send(prometheus.NewDesc("modelfleet_coordinator_clock_ahead_seconds", "Seconds by which the coordinator's clock is ahead of the bucket's; negative: behind. From 300 on it signs nothing.", nil, nil),
		prometheus.GaugeValue, c.o.Publisher.ClockAhead(now).Seconds())
	left := map[string]float64{}
	for _, e := range health.Expiries(facts) {
		if s := e.Expires.Sub(now).Seconds(); left[e.Subject] < s || left[e.Subject] == 0 {
			left[e.Subject] = s // of several device CAs the last counts
		}
	}
	expiry := prometheus.NewDesc("modelfleet_expiry_seconds", "Seconds until a role or certificate expires; negative once it has.", []string{"role"}, nil)
	for role, s := range left {
		send(expiry, prometheus.GaugeValue, s, role)
	}
	count := map[api.Severity]int{}
	for _, f := range health.Findings(facts, now) {
		count[f.Severity]++
	}
	findings := prometheus.NewDesc("modelfleet_findings_count", "Findings about keys and metadata, by severity; `modelfleet doctor` names them.", []string{"severity"}, nil)
	for _, s := range api.Severities() {
		send(findings, prometheus.GaugeValue, float64(count[s]), string(s))
	}
}

// notice tells operators, whatever they ask for, of what runs out.
func (s *server) notice(h http.Header) {
	facts, err := s.Publisher.Standing(s.Now())
	if err != nil {
		return // the metrics say so
	}
	if f, ok := health.Pressing(health.Findings(facts, s.Now())); ok {
		h.Set(api.NoticeHeader, f.Subject+" "+f.What+"; "+f.Remedy)
	}
}
