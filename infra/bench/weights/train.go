// Package weights trains the models that the benchmarks of updates run on: a
// base, and what people make of a base (fine-tunes of several lengths and
// rates, a merged low-rank update, an adapter, a new head, a training gone on
// with, and another training altogether), written in the formats that models
// ship in.
//
// How well weights compress and how much of them an update changes is decided
// by real optimizers on real gradients; noise would answer a question that
// nobody has. Training takes minutes on two cores, once: the result is kept in
// the user's cache under a digest of the settings.
package weights

import (
	"context"
	"math"
)

// Settings are what the trained weights depend on.
type Settings struct {
	Vocab, Width, Context int   // rows and columns of the embedding, tokens a sample
	Hidden                []int // sizes of the hidden layers, multiples of 4
	Classes               int   // multiple of 4, at most 64
	Batch                 int   // multiple of 4
	Steps                 int   // of the base
	Rate                  float64
	Seed                  uint64
}

// Standard is a model of 7.1 million parameters, half of them the embedding.
func Standard() Settings {
	return Settings{Vocab: 60000, Width: 64, Context: 12, Hidden: []int{1536, 1024, 512}, Classes: 16,
		Batch: 16, Steps: 2000, Rate: 3e-4, Seed: 1}
}

// Quick is about a quarter of it, trained for a minute.
func Quick() Settings {
	s := Standard()
	s.Vocab, s.Hidden, s.Steps = 15000, []int{768, 512, 256}, 800
	return s
}

// schedule is one training.
type schedule struct {
	steps  int
	rate   float64
	cosine bool   // the rate falls to nothing; otherwise it stays
	after  func() // of each gradient, before the step; may be nil
}

// fit trains and returns the share of right answers in the last tenth.
func (n *net) fit(ctx context.Context, t *task, s schedule) (accuracy float64, err error) {
	for _, p := range n.params() {
		p.reset()
	}
	labels := make([]int, n.s.Batch)
	var right, seen int
	for step := 1; step <= s.steps; step++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		for i := range labels {
			labels[i] = t.sample(n.tokens[i])
		}
		n.forward()
		hits := n.loss(labels)
		n.backward()
		if s.after != nil {
			s.after()
		}
		rate := s.rate
		if s.cosine {
			rate *= 0.5 * (1 + math.Cos(math.Pi*float64(step-1)/float64(s.steps)))
		}
		for _, p := range n.params() {
			p.adam(rate, step)
		}
		if step > s.steps*9/10 {
			right, seen = right+hits, seen+len(labels)
		}
	}
	return float64(right) / float64(max(1, seen)), nil
}
