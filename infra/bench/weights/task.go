package weights

import (
	"math"
	"math/rand/v2"
)

// task is a synthetic problem with the statistics of language: tokens by Zipf's
// law, and a label that depends on all tokens of a context and on where they
// stand. Each token leans towards the classes by a hidden score; the label is
// the class with the greatest sum.
type task struct {
	s        Settings
	zipf     *rand.Zipf
	rng      *rand.Rand
	score    []float32 // of each token for each class
	position []float32 // how much a place in the context counts
}

// newTask is the task of a seed; the draw seed decides which samples come.
func newTask(s Settings, seed, draw uint64) *task {
	rng := rand.New(rand.NewPCG(seed, 1))
	t := &task{s: s, score: make([]float32, s.Vocab*s.Classes), position: make([]float32, s.Context)}
	for i := range t.score {
		t.score[i] = float32(rng.NormFloat64())
	}
	for i := range t.position {
		t.position[i] = float32(1 / math.Sqrt(1+float64(i)))
	}
	t.rng = rand.New(rand.NewPCG(draw, 2))
	t.zipf = rand.NewZipf(t.rng, 1.1, 4, uint64(s.Vocab-1))
	return t
}

// shifted is the task a fine-tune is for: related, and not the same.
func (t *task) shifted(seed uint64) *task {
	rng := rand.New(rand.NewPCG(seed, 3))
	for i, v := range t.score {
		t.score[i] = 0.8*v + 0.6*float32(rng.NormFloat64())
	}
	return t
}

// sample fills in the tokens of one context and returns its label.
func (t *task) sample(tokens []int) int {
	var sum [64]float32
	for i := range tokens {
		tokens[i] = int(t.zipf.Uint64())
		for c, v := range t.score[tokens[i]*t.s.Classes:][:t.s.Classes] {
			sum[c] += t.position[i] * v
		}
	}
	best := 0
	for c := range t.s.Classes {
		if sum[c] > sum[best] {
			best = c
		}
	}
	return best
}
