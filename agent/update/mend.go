package update

import "github.com/modelfleet/modelfleet/pkg/fleet"

// damaged takes note that the disk damaged files of a release, and has them put
// right. Applications go on with what they have: a wrong byte among millions is
// better than no model.
func (m *machine) damaged() {
	st := &m.st
	switch m.ev.Bundle {
	case st.Running.Bundle:
		st.Running.Damaged = true
	case st.Fallback.Bundle:
		// What no directive names cannot be verified against anything any more, and
		// is not needed while what runs is proven.
		if named := st.Fallback.Bundle == st.Want.Bundle || st.Fallback.Bundle == st.Stable.Bundle; !named && st.Running.Good && !m.switching() {
			st.Fallback = Held{}
			return
		}
		st.Fallback.Damaged = true
	case st.Target.Bundle:
		if st.Phase >= fleet.Verified && st.Phase <= fleet.Activating {
			m.do(Effect{Kind: Mend, Key: mendKey(st.Target), Offer: st.Target})
		}
		return
	}
	m.mend()
}

// mend asks for what is damaged to be put right. It is asked for again by the
// next look at the disk, the next directive and the next start.
func (m *machine) mend() {
	for _, h := range []Held{m.st.Running, m.st.Fallback} {
		if h.Damaged {
			m.do(Effect{Kind: Mend, Key: mendKey(h.Offer), Offer: h.Offer})
		}
	}
}

func mendKey(o Offer) string { return "mend/" + o.Bundle.Short() }

// mended takes note of when the files of a release were put right: what
// applications read of them before may have been wrong.
func (m *machine) mended(bundle fleet.Digest) {
	for _, h := range []*Held{&m.st.Running, &m.st.Fallback} {
		if h.Bundle == bundle && h.Damaged {
			h.Damaged, h.Mended = false, m.ev.At
		}
	}
}

// held is a release as it is held from now on; what is known of its files stays
// known.
func (m *machine) held(o Offer, good bool) Held {
	h := Held{Offer: o, Good: good}
	if f := m.st.Fallback; f.Bundle == o.Bundle {
		h.Damaged, h.Mended = f.Damaged, f.Mended
	}
	return h
}
