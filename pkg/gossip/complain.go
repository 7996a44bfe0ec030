package gossip

import "time"

// complainEvery is how often refusals are told of at most, however many they are.
const complainEvery = time.Minute

// complain tells whoever reads the log of what was refused: much of it means that
// somebody in the cell lies, and that a person should look for who has the cell's
// key. Only the worker calls it.
func (p *Pool) complain(now time.Time) {
	s, told := p.Stats(), &p.worker.told
	if s.Forged == told.Forged && s.Malformed == told.Malformed && s.Refused == told.Refused || now.Sub(p.worker.complained) < complainEvery {
		return
	}
	p.opts.Logger.Warn("cell carried what was refused", "cell", p.opts.Cell,
		"forged", s.Forged-told.Forged, "malformed", s.Malformed-told.Malformed, "packs", s.Refused-told.Refused)
	p.worker.told, p.worker.complained = s, now
}
