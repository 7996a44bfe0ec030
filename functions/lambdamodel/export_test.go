package lambdamodel

import "github.com/modelfleet/modelfleet/pkg/delivery"

// Bundles has bundles read from another source.
func (m *Model[T]) Bundles(s delivery.Source) {
	m.m.turn.Lock()
	defer m.m.turn.Unlock()
	m.m.source = s
}
