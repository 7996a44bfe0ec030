package publisher

import "sync/atomic"

func (p Progress) step(what string, total int64) {
	if p.Step != nil {
		p.Step(what, total)
	}
}

func (p Progress) at(done int64) {
	if p.At != nil {
		p.At(done)
	}
}

func (p Progress) settled(format string, args ...any) {
	if p.Settled != nil {
		p.Settled(format, args...)
	}
}

// meter adds up what several goroutines have done.
func meter(p Progress) func(more int64) {
	var done atomic.Int64
	return func(more int64) { p.at(done.Add(more)) }
}
