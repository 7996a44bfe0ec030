package weights

// Tensor is a matrix of trained weights, or a row of them.
type Tensor struct {
	Name       string
	Rows, Cols int
	Data       []float32 // Rows x Cols, row by row
}

func (t Tensor) shape() []int {
	if t.Rows == 1 {
		return []int{t.Cols}
	}
	return []int{t.Rows, t.Cols}
}

// Model is the tensors of one model, in the order of its layers.
type Model []Tensor

// Parameters counts the weights.
func (m Model) Parameters() int {
	n := 0
	for _, t := range m {
		n += len(t.Data)
	}
	return n
}

func (p *param) tensor() Tensor {
	return Tensor{Name: p.name, Rows: p.rows, Cols: p.cols, Data: append([]float32(nil), p.w...)}
}

func (n *net) model() Model {
	var m Model
	for _, p := range n.params() {
		m = append(m, p.tensor())
	}
	return m
}

// load sets the weights to those of a model of the same settings.
func (n *net) load(m Model) {
	for i, p := range n.params() {
		copy(p.w, m[i].Data)
	}
}
