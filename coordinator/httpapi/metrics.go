package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// metrics are the coordinator's, for Prometheus. Labels are bounded: patterns,
// states and kinds, never members.
type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(o Options) *metrics {
	reg := prometheus.NewRegistry()
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelfleet_coordinator_requests_total", Help: "Requests by call and status.",
		}, []string{"call", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "modelfleet_coordinator_request_seconds", Help: "Time to answer, by call; long polls included.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60},
		}, []string{"call"}),
	}
	reg.MustRegister(m.requests, m.seconds, fleetCollector{o}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) observe(call string, status int, d time.Duration) {
	m.requests.WithLabelValues(call, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(call).Observe(d.Seconds())
}

// fleetCollector reads the fleet's figures when they are asked for.
type fleetCollector struct{ o Options }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("modelfleet_coordinator_"+name, help, labels, nil)
}

// Describe leaves the descriptions to Collect: they are checked at each scrape.
func (c fleetCollector) Describe(chan<- *prometheus.Desc) {}

// Collect gives the figures.
func (c fleetCollector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	st := c.o.Intake.Stats()
	rows := desc("rows_total", "Signed rows and windows, by what became of them.", "result")
	send(rows, prometheus.CounterValue, float64(st.Accepted), "accepted")
	send(rows, prometheus.CounterValue, float64(st.Duplicate), "duplicate")
	send(rows, prometheus.CounterValue, float64(st.Refused), "refused")

	c.audit(send)
	c.delivery(send)
	c.health(send)
	now := c.o.Now()
	count := map[[2]string]int{}
	trusts, unfresh := map[telemetry.Freshness]int{}, time.Duration(0)
	var all standings
	for _, m := range c.o.Inventory.Members() {
		state := "silent"
		rep, heard := c.o.Intake.Newest(m.KeyID)
		switch {
		case m.Revoked:
			state = "revoked"
		case m.Locked != "":
			state = "locked"
		case heard && c.o.Intake.Reachable(rep, now):
			state = "reporting"
		}
		count[[2]string{string(m.Facts.Kind), state}]++
		if state == "reporting" {
			trusts[rep.Row.Freshness]++
			if rep.Row.Freshness != telemetry.Fresh {
				unfresh = max(unfresh, now.Sub(rep.Stood))
			}
			for _, model := range rep.Row.Models {
				rate, _ := c.o.Intake.Pace(m.KeyID, model.Model, now).Rate()
				all.add(model, rate)
			}
		}
	}
	all.send(send)
	members := desc("members_count", "Members by kind and state.", "kind", "state")
	for k, n := range count {
		send(members, prometheus.GaugeValue, float64(n), k[0], k[1])
	}
	trust := desc("members_trust_count", "Reporting members by how their trust pack stands.", "state")
	for f := telemetry.NoPack; f <= telemetry.Untrusted; f++ {
		send(trust, prometheus.GaugeValue, float64(trusts[f]), f.String())
	}
	send(desc("members_unfresh_seconds", "Longest time for which a reporting member has not been fresh."), prometheus.GaugeValue, unfresh.Seconds())
	if p, ok := c.o.Publisher.Pack(fleet.DefaultGroup); ok {
		send(desc("pack_age_seconds", "Time since the trust pack was signed."), prometheus.GaugeValue, now.Sub(p.Signed).Seconds())
		send(desc("directive_sequence", "Newest directive that members can see."), prometheus.GaugeValue, float64(p.Sequence))
		send(desc("pack_expires_seconds", "Unix time at which the trust pack becomes stale."), prometheus.GaugeValue, float64(p.Expires.Unix()))
		send(desc("pack_size_bytes", "Size of the trust pack."), prometheus.GaugeValue, float64(len(p.Body)))
	}
	send(desc("bucket_tampered_total", "Objects that somebody else changed in the bucket, and that were put right."), prometheus.CounterValue, float64(c.o.Publisher.Mended()))
	ready := 1.0
	if c.o.Ready() != nil {
		ready = 0
	}
	send(desc("ready", "Whether the coordinator can do its work."), prometheus.GaugeValue, ready)
}
