package analysis

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Timing are the durations that depend on how often members report. Zero
// fields get the defaults.
type Timing struct {
	Report time.Duration // between a member's reports while it is compared; default 10 s
	Look   time.Duration // least time between two looks at the members' counters; default Report
}

// Config is what the gates need of a rollout's spec. Make it with [NewConfig]
// once, and do not change it while the rollout runs: alpha is spent by it.
type Config struct {
	Alpha float64 `json:"alpha"` // chance of a false rollback, over the whole rollout
	Beta  float64 `json:"beta"`  // chance that a gate is passed by evidence for a release that is worse than Margin allows; 0.05
	// Margin is how much worse than tolerated a release may still be when
	// evidence passes it; 0.25.
	Margin     float64         `json:"margin"`
	Soaks      []time.Duration `json:"soaks"` // of each stage; they set when to look
	Look       time.Duration   `json:"look"`
	SilentFor  time.Duration   `json:"silentFor"`  // a member not heard for so long is silent: three reports
	Coverage   float64         `json:"coverage"`   // least share of each arm that must be heard; 0.8
	MinMembers int             `json:"minMembers"` // fewer make no fleet verdict; 10
	// FloorMembers members (or all exposed ones, if fewer) for FloorTime (or
	// half the stage's soak, if shorter) are enough exposure for a gate with no
	// evidence against the release to pass; 20 and 10 minutes.
	FloorMembers int           `json:"floorMembers"`
	FloorTime    time.Duration `json:"floorTime"`
	Gates        []GateConfig  `json:"gates"` // those that are on, in a fixed order
}

// GateConfig is one gate that is on.
type GateConfig struct {
	fleet.Gate
	Weight float64 `json:"weight"` // in the mean of the gates; they sum to 1, the breaker has none
	// Required: without data the gate is inconclusive. Others then pass.
	Required bool `json:"required,omitempty"`
}

// defaultGates are on unless the spec says otherwise. Their weights are before
// they are scaled to one.
func defaultGates() []GateConfig {
	return []GateConfig{
		{Gate: fleet.Gate{Gate: fleet.GateFatal}, Weight: 0.25, Required: true},
		{Gate: fleet.Gate{Gate: fleet.GateErrors, Tolerate: 5}, Weight: 0.40, Required: true},
		{Gate: fleet.Gate{Gate: fleet.GateLatency, At: []string{"p95", "p99"}, Tolerate: 10}, Weight: 0.20},
		{Gate: fleet.Gate{Gate: fleet.GateDrift, Floor: 0.02}, Weight: 0.15},
		{Gate: fleet.Gate{Gate: fleet.GateBreaker, Failures: 3, Of: 5}},
	}
}

// metricWeight is the weight of each metric gate before scaling.
const metricWeight = 0.20

// NewConfig works out a rollout's gates. A gate that the spec names is required
// to have data, unless it is off; errors are required anyway.
func NewConfig(spec fleet.Spec, t Timing) Config {
	if t.Report == 0 {
		t.Report = 10 * time.Second
	}
	if t.Look == 0 {
		t.Look = t.Report
	}
	c := Config{
		Alpha: spec.Alpha.Of(), Beta: 0.05, Margin: 0.25, Look: t.Look, SilentFor: 3 * t.Report,
		Coverage: 0.8, MinMembers: 10, FloorMembers: 20, FloorTime: 10 * time.Minute,
	}
	if c.Alpha == 0 {
		c.Alpha = 0.01
	}
	for _, st := range spec.Stages {
		c.Soaks = append(c.Soaks, st.Soak.D())
	}
	gates := defaultGates()
	for _, g := range spec.Gates {
		if g.Gate == fleet.GateMetric {
			gates = append(gates, GateConfig{Gate: g, Weight: metricWeight, Required: true})
			continue
		}
		for i := range gates {
			if gates[i].Gate.Gate == g.Gate {
				gates[i].tune(g)
			}
		}
	}
	sum := 0.0
	for _, g := range gates {
		if !g.Off {
			c.Gates = append(c.Gates, g)
			sum += g.Weight
		}
	}
	for i := range c.Gates {
		if sum > 0 {
			c.Gates[i].Weight /= sum
		}
	}
	return c
}

// tune takes over what the spec says of a default gate.
func (c *GateConfig) tune(g fleet.Gate) {
	c.Off, c.Required = g.Off, true
	if g.Tolerate > 0 {
		c.Tolerate = g.Tolerate
	}
	if len(g.At) > 0 {
		c.At = g.At
	}
	if g.Floor > 0 {
		c.Floor = g.Floor
	}
	if g.Of > 0 {
		c.Failures, c.Of = g.Failures, g.Of
	}
}

// gate returns the gate of a kind that is on.
func (c *Config) gate(k fleet.GateKind) (GateConfig, bool) {
	for _, g := range c.Gates {
		if g.Gate.Gate == k {
			return g, true
		}
	}
	return GateConfig{}, false
}

// floorTime is how long a stage's members must be watched before a gate without
// evidence against the release may pass.
func (c *Config) floorTime(stage int) time.Duration {
	if soak := c.soak(stage); soak > 0 {
		return min(c.FloorTime, soak/2)
	}
	return 0
}

func (c *Config) soak(stage int) time.Duration {
	if stage < 0 || stage >= len(c.Soaks) {
		return 0
	}
	return c.Soaks[stage]
}

// share is the part of alpha that a stage's looks may spend. The first stages
// have most of it, 1 to 1/2 to 1/3 and so on: there a bad release must be
// caught by few members, while later ones have so many that their evidence
// grows far beyond a factor. First events (fatal ones, alarms) are not divided:
// each happens once, in whatever stage.
func (c *Config) share(stage int) float64 {
	sum := 0.0
	for i := range max(1, len(c.Soaks)) {
		sum += 1 / float64(i+1)
	}
	return 1 / (float64(max(0, stage)+1) * sum)
}
