package train

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
)

// net is a perceptron while it is trained: weights with their momentum. All
// arithmetic is float32 and in a fixed order, so a seed gives the same bits.
type net struct {
	layers []layer
}

type layer struct {
	in, out  int
	w, b     []float32 // w: out rows of in
	vw, vb   []float32 // momentum
	gw, gb   []float32 // gradient of the batch
	act, err []float32 // of one sample: outputs, and the loss's derivative by them
}

func newNet(rng *rand.Rand, sizes ...int) *net {
	n := &net{}
	for i := 1; i < len(sizes); i++ {
		l := layer{in: sizes[i-1], out: sizes[i]}
		l.w, l.b = make([]float32, l.in*l.out), make([]float32, l.out)
		scale := math.Sqrt(2 / float64(l.in))
		for j := range l.w {
			l.w[j] = float32(scale * rng.NormFloat64())
		}
		n.layers = append(n.layers, l)
	}
	return n
}

// clone is a copy that can be trained further: fine-tuning begins here.
func (n *net) clone() *net {
	c := &net{}
	for _, l := range n.layers {
		c.layers = append(c.layers, layer{in: l.in, out: l.out,
			w: append([]float32(nil), l.w...), b: append([]float32(nil), l.b...)})
	}
	return c
}

// example is one row of a training set: normalized inputs and the label.
type example struct {
	x []float32
	y float32
}

// schedule is how to train.
type schedule struct {
	epochs int
	rate   float32 // falls to a tenth of it in the end
	batch  int
}

const momentum = 0.9

// fit trains by stochastic gradient descent with momentum on the logistic loss.
func (n *net) fit(ctx context.Context, rng *rand.Rand, data []example, s schedule, progress func(done float64)) error {
	for i := range n.layers {
		l := &n.layers[i]
		l.vw, l.gw = make([]float32, len(l.w)), make([]float32, len(l.w))
		l.vb, l.gb = make([]float32, len(l.b)), make([]float32, len(l.b))
		l.act, l.err = make([]float32, l.out), make([]float32, l.out)
	}
	order := make([]int, len(data))
	for i := range order {
		order[i] = i
	}
	for epoch := range s.epochs {
		if err := ctx.Err(); err != nil {
			return err
		}
		rate := s.rate * float32(math.Pow(0.1, float64(epoch)/float64(max(1, s.epochs-1))))
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for from := 0; from < len(order); from += s.batch {
			batch := order[from:min(from+s.batch, len(order))]
			for _, i := range batch {
				n.backward(data[i])
			}
			n.step(rate / float32(len(batch)))
		}
		progress(float64(epoch+1) / float64(s.epochs))
	}
	return nil
}

// forward fills in each layer's act and returns the logit.
func (n *net) forward(x []float32) float32 {
	for k := range n.layers {
		l := &n.layers[k]
		for j := range l.act {
			row := l.w[j*l.in : (j+1)*l.in]
			sum := l.b[j]
			for i, v := range x {
				sum += float32(row[i] * v)
			}
			if k < len(n.layers)-1 && sum < 0 {
				sum = 0
			}
			l.act[j] = sum
		}
		x = l.act
	}
	return x[0]
}

// backward adds one example's gradient.
func (n *net) backward(e example) {
	logit := n.forward(e.x)
	last := len(n.layers) - 1
	n.layers[last].err[0] = float32(1/(1+math.Exp(-float64(logit)))) - e.y
	for k := last; k >= 0; k-- {
		l := &n.layers[k]
		x := e.x
		var below []float32
		if k > 0 {
			x, below = n.layers[k-1].act, n.layers[k-1].err
			clear(below)
		}
		for j, d := range l.err {
			if d == 0 {
				continue
			}
			l.gb[j] += d
			row, grad := l.w[j*l.in:(j+1)*l.in], l.gw[j*l.in:(j+1)*l.in]
			for i, v := range x {
				grad[i] += float32(d * v)
			}
			for i := range below {
				below[i] += float32(d * row[i])
			}
		}
		for i := range below {
			if x[i] <= 0 { // the rectifier was closed
				below[i] = 0
			}
		}
	}
}

func (n *net) step(rate float32) {
	move := func(w, v, g []float32) {
		for i := range w {
			v[i] = float32(momentum*v[i]) - float32(rate*g[i])
			w[i] += v[i]
			g[i] = 0
		}
	}
	for k := range n.layers {
		l := &n.layers[k]
		move(l.w, l.vw, l.gw)
		move(l.b, l.vb, l.gb)
	}
}

// model is the net as it is shipped.
func (n *net) model(mean, scale []float32) (*mlp.Model, error) {
	var layers []mlp.Layer
	for _, l := range n.layers {
		layers = append(layers, mlp.Layer{In: l.in, Out: l.out,
			Weight: append([]float32(nil), l.w...), Bias: append([]float32(nil), l.b...)})
	}
	return mlp.New(mean, scale, layers)
}
