// Package train makes the demo's data and its three releases. The data are
// sensor readings of machines that wear out; the task is to say whether a machine
// needs service. The models are small perceptrons trained here, in Go, in
// seconds, and everything depends on the seed alone.
//
//   - v1 was trained briefly, on machines that stand indoors.
//   - v2 is v1 trained further, on all machines: truly better, most of all outdoors.
//   - v3 is v2 trained on labels that an upstream error flipped for machines under
//     heavy load, with two mistakes in its feature table: the logarithm of a
//     temperature that can be below zero (no number comes out), and, for the rare
//     bypass regime, a channel that is switched off in it (the application
//     crashes). Its self-test passes: the cases are the usual ones.
package train

import (
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
)

// Channels are the values of a sample, in order. In the bypass regime the last
// two are switched off and not there.
func Channels() []string {
	return []string{
		"vibration_rms", "vibration_peak", "kurtosis", "bearing_temperature", "ambient_temperature", "current",
		"current_imbalance", "speed", "pressure", "oil_debris", "flow", "acoustic",
	}
}

const (
	channels       = 12
	bypassChannels = 10
	ambient        = 4 // index of ambient_temperature
)

// The regimes a machine runs in.
const (
	Idle    = "idle"
	Steady  = "steady"
	Heavy   = "heavy"
	Startup = "startup"
	Bypass  = "bypass" // about one sample in a hundred
)

// Sample is one reading with what is known of it.
type Sample struct {
	mlp.Sample
	Machine  int
	Outdoor  bool // the machine stands in the cold
	Faulty   bool // the truth: it needs service
	Labelled bool // someone looked, so the application may know the truth
}

// Stream gives the readings of one device's machines without end.
type Stream struct {
	rng      *rand.Rand
	machines []machine
	at       int // samples so far
}

const machinesPerDevice = 8

// machine is the hidden state the sensors see only in part.
type machine struct {
	outdoor  bool
	base     float64 // mean ambient temperature
	wear     float64 // 0 new .. 1 worn out
	misalign float64
	leak     float64
	regime   string
	dwell    int // samples until the regime changes
}

// Two random streams of one seed must differ; this tells them apart.
const streamSalt = 0x9e3779b97f4a7c15

// NewStream is the stream of a device at a site: the site sets the climate, the
// seed everything else. The same arguments give the same samples.
func NewStream(seed uint64, site string) *Stream {
	h := fnv.New64a()
	h.Write([]byte(site))
	climate := rand.New(rand.NewPCG(h.Sum64(), streamSalt))
	indoor, outdoor := 18+6*climate.Float64(), -7+6*climate.Float64()
	s := &Stream{rng: rand.New(rand.NewPCG(seed, h.Sum64()))}
	cold := 1 + s.rng.IntN(3) // devices differ: 1 to 3 of 8 machines outdoors
	for i := range machinesPerDevice {
		m := machine{outdoor: i < cold, base: indoor, regime: Steady}
		if m.outdoor {
			m.base = outdoor
		}
		m.wear, m.misalign, m.leak = s.rng.Float64(), 0.5*s.rng.Float64(), 0.5*s.rng.Float64()
		s.machines = append(s.machines, m)
	}
	return s
}

// Next is the next reading, of one machine after the other.
func (s *Stream) Next() Sample {
	i := s.at % len(s.machines)
	m := &s.machines[i]
	s.at++
	s.advance(m)
	load := s.load(m.regime)
	temp := m.base + 4*math.Sin(2*math.Pi*float64(s.at)/20000) + 1.5*s.rng.NormFloat64()
	out := Sample{Machine: i, Outdoor: m.outdoor, Faulty: s.faulty(m, load), Labelled: s.rng.Float64() < 0.4}
	out.Regime = m.regime
	out.Values = s.sense(m, load, temp)
	if m.regime == Bypass {
		out.Values = out.Values[:bypassChannels]
	}
	return out
}

// advance moves the hidden state on: wear and the rest wander between 0 and 1,
// the regime stays for a while.
func (s *Stream) advance(m *machine) {
	wander := func(v *float64, step, mean float64) {
		*v = min(1, max(0, *v+0.01*(mean-*v)+step*s.rng.NormFloat64()))
	}
	wander(&m.wear, 0.05, 0.45)
	wander(&m.misalign, 0.03, 0.25)
	wander(&m.leak, 0.03, 0.2)
	if m.dwell--; m.dwell >= 0 {
		return
	}
	p := s.rng.Float64()
	switch {
	case p < 0.15:
		m.regime, m.dwell = Idle, 8+s.rng.IntN(16)
	case p < 0.55:
		m.regime, m.dwell = Steady, 15+s.rng.IntN(30)
	case p < 0.80:
		m.regime, m.dwell = Heavy, 10+s.rng.IntN(20)
	case p < 0.90:
		m.regime, m.dwell = Startup, 4+s.rng.IntN(8)
	default:
		m.regime, m.dwell = Bypass, s.rng.IntN(3)
	}
}

func (s *Stream) load(regime string) float64 {
	mean := map[string]float64{Idle: 0.08, Steady: 0.5, Heavy: 0.9, Startup: 0.35, Bypass: 0.45}[regime]
	return max(0, mean+0.08*s.rng.NormFloat64())
}

// faulty is the truth, with the noise that no model can explain. Wear matters
// more under load, misalignment only under load, and cold oil makes worn
// bearings fail earlier.
func (s *Stream) faulty(m *machine, load float64) bool {
	risk := 9*(m.wear-0.62) + 6*m.wear*m.wear*(load-0.4) + 5*m.misalign*load*load + 3*m.leak*m.leak
	if m.outdoor {
		risk += 3.5*m.wear - 1.2
	}
	return risk+0.5*s.rng.NormFloat64() > 0
}

// sense is what the sensors say of the hidden state. Cold, thick oil raises
// vibration and current without any fault: what misleads a model that never saw
// it.
func (s *Stream) sense(m *machine, load, temp float64) []float32 {
	noise := func(sd float64) float64 { return sd * s.rng.NormFloat64() }
	thick := max(0, 8-temp) / 10
	start := 0.0
	if m.regime == Startup {
		start = 1
	}
	rms := 0.4 + 1.2*load + 2.2*m.wear*m.wear*(0.3+load) + 0.9*thick + 0.5*start + noise(0.12)
	v := [channels]float64{
		rms,
		rms*(2.4+2.2*m.wear) + noise(0.4),
		3 + 3.5*m.wear*(1.1-load) + 0.6*thick + noise(0.35),
		temp + 17*load + 24*m.wear*load + noise(1.5),
		temp,
		4 + 15*load + 2.5*m.wear + 4*thick + 9*start + noise(0.7),
		0.03 + 0.12*m.misalign*(0.4+load) + noise(0.012),
		300 + 1250*load - 120*start + noise(25),
		3 + 2*load - 1.3*m.leak + noise(0.15),
		0.1 + 1.4*m.wear + noise(0.22),
		5*load - 1.6*m.leak*load + noise(0.2),
		42 + 18*load + 14*m.wear*load + 4*m.misalign + noise(1.5),
	}
	out := make([]float32, channels)
	for i, x := range v {
		out[i] = float32(x)
	}
	return out
}
