package weights

import (
	"math"
	"math/rand/v2"
	"strconv"
)

// param is a matrix under training with its gradient and Adam's two moments.
type param struct {
	name       string
	rows, cols int
	w, g, m, v []float32
	live       []bool // rows that had a gradient; the others never move
	frozen     bool
}

func newParam(rng *rand.Rand, name string, rows, cols int, scale float64) *param {
	p := &param{name: name, rows: rows, cols: cols, w: make([]float32, rows*cols)}
	for i := range p.w {
		p.w[i] = float32(scale * rng.NormFloat64())
	}
	p.reset()
	return p
}

// reset begins a new training: no momentum, no row seen.
func (p *param) reset() {
	p.g, p.m, p.v = make([]float32, len(p.w)), make([]float32, len(p.w)), make([]float32, len(p.w))
	p.live = make([]bool, p.rows)
}

func (p *param) row(w []float32, i int) []float32 { return w[i*p.cols : (i+1)*p.cols] }

// Adam's constants, the usual ones.
const (
	beta1, beta2 = 0.9, 0.999
	epsilon      = 1e-8
)

// adam makes step t (from 1) and clears the gradient.
func (p *param) adam(rate float64, t int) {
	if p.frozen {
		clear(p.g)
		return
	}
	c1, c2 := 1-math.Pow(beta1, float64(t)), 1-math.Pow(beta2, float64(t))
	step, scale := float32(rate/c1), float32(1/math.Sqrt(c2))
	for r, live := range p.live {
		if !live {
			continue
		}
		w, g, m, v := p.row(p.w, r), p.row(p.g, r), p.row(p.m, r), p.row(p.v, r)
		for i, d := range g {
			m[i] = float32(beta1*m[i]) + float32((1-beta1)*d)
			v[i] = float32(beta2*v[i]) + float32(float32((1-beta2)*d)*d)
			w[i] -= float32(step*m[i]) / (float32(float32(math.Sqrt(float64(v[i])))*scale) + epsilon)
			g[i] = 0
		}
	}
}

// net is an embedding, whose rows of one context are joined, under a perceptron.
// All arithmetic is float32 and in a fixed order: settings give the same bits.
type net struct {
	s      Settings
	embed  *param
	layers []layer
	tokens [][]int
	input  [][]float32 // one row a sample, as all below
	below  [][]float32 // the loss's derivative by input
}

type layer struct {
	w, b     *param
	act, err [][]float32 // outputs, and the loss's derivative by them
}

func newNet(s Settings, seed uint64) *net {
	rng := rand.New(rand.NewPCG(seed, 4))
	n := &net{s: s, embed: newParam(rng, "embed.weight", s.Vocab, s.Width, 0.1)}
	sizes := append(append([]int{s.Context * s.Width}, s.Hidden...), s.Classes)
	for i := 1; i < len(sizes); i++ {
		name := "layers." + strconv.Itoa(i-1)
		l := layer{
			w: newParam(rng, name+".weight", sizes[i], sizes[i-1], math.Sqrt(2/float64(sizes[i-1]))),
			b: newParam(rng, name+".bias", 1, sizes[i], 0),
		}
		n.layers = append(n.layers, l)
	}
	n.buffers()
	return n
}

func (n *net) buffers() {
	matrix := func(cols int) [][]float32 {
		m := make([][]float32, n.s.Batch)
		for i := range m {
			m[i] = make([]float32, cols)
		}
		return m
	}
	n.input, n.below = matrix(n.s.Context*n.s.Width), matrix(n.s.Context*n.s.Width)
	for i := range n.layers {
		l := &n.layers[i]
		l.act, l.err = matrix(l.w.rows), matrix(l.w.rows)
	}
	n.tokens = make([][]int, n.s.Batch)
	for i := range n.tokens {
		n.tokens[i] = make([]int, n.s.Context)
	}
}

func (n *net) params() []*param {
	ps := []*param{n.embed}
	for _, l := range n.layers {
		ps = append(ps, l.w, l.b)
	}
	return ps
}

// forward computes the outputs for the tokens.
func (n *net) forward() {
	for s, tokens := range n.tokens {
		for i, t := range tokens {
			copy(n.input[s][i*n.s.Width:], n.embed.row(n.embed.w, t))
		}
	}
	x := n.input
	for k, l := range n.layers {
		for o := range l.w.rows {
			row, bias := l.w.row(l.w.w, o), l.b.w[o]
			for s := 0; s < len(x); s += 4 {
				a, b, c, d := dot4(row, x[s], x[s+1], x[s+2], x[s+3])
				for j, v := range [4]float32{a, b, c, d} {
					if v += bias; k < len(n.layers)-1 && v < 0 {
						v = 0
					}
					l.act[s+j][o] = v
				}
			}
		}
		x = l.act
	}
}

// loss sets the derivative by the outputs for cross entropy, and counts the
// right answers.
func (n *net) loss(labels []int) (right int) {
	top := n.layers[len(n.layers)-1]
	for s, label := range labels {
		out, d := top.act[s], top.err[s]
		best := 0
		for c, v := range out {
			if v > out[best] {
				best = c
			}
		}
		var sum float64
		for c, v := range out {
			e := math.Exp(float64(v - out[best]))
			d[c], sum = float32(e), sum+e
		}
		for c := range d {
			d[c] /= float32(sum) * float32(len(labels))
		}
		d[label] -= 1 / float32(len(labels))
		if best == label {
			right++
		}
	}
	return right
}

// backward adds the gradient of the batch.
func (n *net) backward() {
	for k := len(n.layers) - 1; k >= 0; k-- {
		l := n.layers[k]
		x, below := n.input, n.below
		if k > 0 {
			x, below = n.layers[k-1].act, n.layers[k-1].err
		}
		for _, row := range below {
			clear(row)
		}
		for o := range l.w.rows {
			l.w.live[o] = true
			g := l.w.row(l.w.g, o)
			for s := 0; s < len(x); s += 4 {
				a, b, c, d := l.err[s][o], l.err[s+1][o], l.err[s+2][o], l.err[s+3][o]
				l.b.g[o] += a + b + c + d
				add4(g, a, b, c, d, x[s], x[s+1], x[s+2], x[s+3])
			}
		}
		l.b.live[0] = true
		for o := 0; o < l.w.rows; o += 4 {
			w := l.w.w[o*l.w.cols:]
			w0, w1, w2, w3 := w[:l.w.cols], w[l.w.cols:2*l.w.cols], w[2*l.w.cols:3*l.w.cols], w[3*l.w.cols:4*l.w.cols]
			for s, e := range l.err {
				add4(below[s], e[o], e[o+1], e[o+2], e[o+3], w0, w1, w2, w3)
			}
		}
		if k > 0 {
			for s := range below {
				for i, v := range x[s] {
					if v <= 0 { // the rectifier was closed
						below[s][i] = 0
					}
				}
			}
		}
	}
	for s, tokens := range n.tokens {
		for i, t := range tokens {
			n.embed.live[t] = true
			g := n.embed.row(n.embed.g, t)
			for j, d := range n.below[s][i*n.s.Width:][:n.s.Width] {
				g[j] += d
			}
		}
	}
}

// dot4 is the products of one row with four others.
func dot4(w, a, b, c, d []float32) (p, q, r, s float32) {
	a, b, c, d = a[:len(w)], b[:len(w)], c[:len(w)], d[:len(w)]
	for i, v := range w {
		p += float32(v * a[i])
		q += float32(v * b[i])
		r += float32(v * c[i])
		s += float32(v * d[i])
	}
	return p, q, r, s
}

// add4 adds four rows, each times its factor.
func add4(dst []float32, p, q, r, s float32, a, b, c, d []float32) {
	if p == 0 && q == 0 && r == 0 && s == 0 {
		return
	}
	a, b, c, d = a[:len(dst)], b[:len(dst)], c[:len(dst)], d[:len(dst)]
	for i := range dst {
		dst[i] += float32(p*a[i]) + float32(q*b[i]) + float32(float32(r*c[i])+float32(s*d[i]))
	}
}
