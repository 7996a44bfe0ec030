package analysis

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Timing are the durations that depend on how often members report. Zero
// fields get the defaults.
type Timing struct {
	Report time.Duration // between a member's reports while it is compared; default 10 s
	Look   time.Duration // least time between two looks; default Report
}

// Config is what the gates need of a rollout's spec. Make it with [NewConfig]
// once, and do not change it while the rollout runs: alpha is spent by it.
type Config struct {
	Alpha float64 `json:"alpha"` // chance of a false rollback, over the whole rollout
	Beta  float64 `json:"beta"`  // chance that a gate passes what is worse than tolerated by Margin; 0.05
	// Margin is how much worse than tolerated PASS rules out; 0.25.
	Margin     float64         `json:"margin"`
	Soaks      []time.Duration `json:"soaks"` // of each stage
	Look       time.Duration   `json:"look"`
	SilentFor  time.Duration   `json:"silentFor"`  // a member not heard for so long is silent: three reports
	Coverage   float64         `json:"coverage"`   // least share of each arm that must be heard; 0.8
	MinMembers int             `json:"minMembers"` // fewer make no fleet verdict; 10
	// FloorMembers members for FloorTime without a fatal event are enough for
	// the fatal gate to pass; 20, and 10 minutes or half the stage's soak.
	FloorMembers int           `json:"floorMembers"`
	FloorTime    time.Duration `json:"floorTime"`

	Gates []GateConfig `json:"gates"` // in a fixed order
}

// GateConfig is one gate that is on.
type GateConfig struct {
	fleet.Gate
	Weight   float64 `json:"weight"`             // of the gates that are on; sums to 1; the breaker has none
	Required bool    `json:"required,omitempty"` // without data it is inconclusive; other gates then pass
}

// NewConfig works out a rollout's gates.
func NewConfig(spec fleet.Spec, t Timing) Config {
	return Config{}
}
