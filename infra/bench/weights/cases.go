package weights

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"

	"golang.org/x/sync/errgroup"
)

// The cases: what becomes of the base.
const (
	Tune20     = "ft20"       // 20 steps at 1e-5 on a shifted task
	Tune200    = "ft200-1e-5" // 200 such steps
	Tune200x10 = "ft200-1e-4" // 200 steps, ten times the rate
	HeadOnly   = "head_only"  // the last layer alone was trained
	LoRAMerged = "lora_merged"
	Adapter    = "adapter" // an unchanged base with a low-rank update beside it
	Continued  = "cont400" // the base's own training gone on with, at its full rate
	Retrain    = "retrain" // other seed, other data
)

// Base is the name of what every case begins with.
const Base = "v1"

// Cases lists the updates, lightest first.
func Cases() []string {
	return []string{HeadOnly, Adapter, Tune20, Tune200, LoRAMerged, Tune200x10, Continued, Retrain}
}

// rank of the low-rank updates.
const rank = 8

// train makes one model of the set. Every case but the base and the retraining
// begins with a base that is trained already.
func train(ctx context.Context, s Settings, name string, base Model, logf func(string, ...any)) (Model, error) {
	n := newNet(s, s.Seed)
	if base != nil {
		n.load(base)
	}
	draw := s.Seed * 100
	shifted := func() *task { return newTask(s, s.Seed, draw+7).shifted(s.Seed) }
	var t *task
	var sch schedule
	var updates []*lowRank
	switch name {
	case Base:
		t, sch = newTask(s, s.Seed, draw), schedule{steps: s.Steps, rate: s.Rate, cosine: true}
	case Retrain:
		n = newNet(s, s.Seed+1000)
		t, sch = newTask(s, s.Seed+1000, draw+1000), schedule{steps: s.Steps, rate: s.Rate, cosine: true}
	case Continued:
		t, sch = newTask(s, s.Seed, draw+1), schedule{steps: 400, rate: s.Rate}
	case Tune20:
		t, sch = shifted(), schedule{steps: 20, rate: 1e-5}
	case Tune200:
		t, sch = shifted(), schedule{steps: 200, rate: 1e-5}
	case Tune200x10:
		t, sch = shifted(), schedule{steps: 200, rate: 1e-4}
	case HeadOnly:
		t, sch = shifted(), schedule{steps: 200, rate: 1e-3}
		for _, p := range n.params()[:len(n.params())-2] {
			p.frozen = true
		}
	case LoRAMerged, Adapter:
		t, sch = shifted(), schedule{steps: 200, rate: 2e-4}
		updates = n.addLowRank(s.Seed)
		step := 0
		sch.after = func() {
			step++
			for _, u := range updates {
				u.learn(sch.rate, step)
			}
		}
	default:
		return nil, fmt.Errorf("train %q: there is no such case", name)
	}
	accuracy, err := n.fit(ctx, t, sch)
	if err != nil {
		return nil, err
	}
	logf("trained %s: %d steps, accuracy %.2f (chance %.2f)", name, sch.steps, accuracy, 1/float64(s.Classes))
	if name == Adapter {
		return adapter(updates), nil
	}
	return n.model(), nil
}

// trainAll trains every model: those that begin with nothing first, two at a time.
func trainAll(ctx context.Context, s Settings, logf func(string, ...any)) (map[string]Model, error) {
	models := map[string]Model{}
	var mu sync.Mutex
	run := func(names []string) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(2)
		base := models[Base]
		for _, name := range names {
			g.Go(func() error {
				m, err := train(ctx, s, name, base, logf)
				mu.Lock()
				defer mu.Unlock()
				models[name] = m
				return err
			})
		}
		return g.Wait()
	}
	first := []string{Base, Retrain}
	if err := run(first); err != nil {
		return nil, err
	}
	var rest []string
	for _, name := range Cases() {
		if name != Retrain {
			rest = append(rest, name)
		}
	}
	return models, run(rest)
}

// lowRank is an update up·down of one matrix (LoRA). The matrix's own weights
// are kept at base + up·down while it is trained.
type lowRank struct {
	of       *param
	base     []float32
	up, down *param // rows x rank, rank x cols
}

// addLowRank freezes the net under low-rank updates of its three hidden layers.
func (n *net) addLowRank(seed uint64) []*lowRank {
	rng := rand.New(rand.NewPCG(seed, 5))
	for _, p := range n.params() {
		p.frozen = true
	}
	var us []*lowRank
	for _, l := range n.layers[:3] {
		us = append(us, &lowRank{of: l.w, base: append([]float32(nil), l.w.w...),
			up:   newParam(rng, l.w.name+".lora_B", l.w.rows, rank, 0),
			down: newParam(rng, l.w.name+".lora_A", rank, l.w.cols, 1/math.Sqrt(float64(l.w.cols))),
		})
	}
	return us
}

// learn turns the matrix's gradient into the update's, makes a step and merges.
func (u *lowRank) learn(rate float64, step int) {
	for r := range u.of.rows {
		g, b, gb := u.of.row(u.of.g, r), u.up.row(u.up.w, r), u.up.row(u.up.g, r)
		for k := 0; k < rank; k += 4 {
			gb[k], gb[k+1], gb[k+2], gb[k+3] = dot4(g, u.down.row(u.down.w, k), u.down.row(u.down.w, k+1),
				u.down.row(u.down.w, k+2), u.down.row(u.down.w, k+3))
		}
		for k := range rank {
			add4(u.down.row(u.down.g, k), b[k], 0, 0, 0, g, g, g, g)
		}
	}
	for _, p := range []*param{u.up, u.down} {
		for r := range p.live {
			p.live[r] = true
		}
		p.adam(rate, step)
	}
	for r := range u.of.rows {
		w, b := u.of.row(u.of.w, r), u.up.row(u.up.w, r)
		copy(w, u.of.row(u.base, r))
		for k := 0; k < rank; k += 4 {
			add4(w, b[k], b[k+1], b[k+2], b[k+3], u.down.row(u.down.w, k), u.down.row(u.down.w, k+1),
				u.down.row(u.down.w, k+2), u.down.row(u.down.w, k+3))
		}
	}
}

// adapter is the updates by themselves, as they are shipped beside a base.
func adapter(us []*lowRank) Model {
	var m Model
	for _, u := range us {
		for _, p := range []*param{u.down, u.up} {
			m = append(m, p.tensor())
		}
	}
	return m
}
