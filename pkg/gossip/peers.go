package gossip

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

var (
	errFull   = errors.New("the cell is full")
	errBarred = errors.New("the member lost its identity")
	errNotIt  = errors.New("the certificate names another member")
)

// peer is what is known of a key: its certificate, and who that names; or that
// it was asked for.
type peer struct {
	cert     []byte
	identity Identity // Key is nil until the certificate was judged good
	asked    time.Time
	tries    int
}

// view is the cell as last looked at. It does not change once it is published.
type view struct {
	members []Member // by name
	nodes   map[fleet.MemberID]memberlist.Node
	byKey   map[telemetry.KeyID]fleet.MemberID
	relays  []fleet.MemberID
}

// Members lists the members that are alive as far as this one knows, itself
// included, by name.
func (p *Pool) Members() []Member { return slices.Clone(p.view.Load().members) }

// Relays are the cell's relays as this member sees it, primary first.
func (p *Pool) Relays() []fleet.MemberID { return slices.Clone(p.view.Load().relays) }

// Role is what this member does for the cell.
func (p *Pool) Role() Role { return p.view.Load().role(p.opts.Member) }

func (v *view) role(m fleet.MemberID) Role {
	return Role(slices.Index(v.relays, m) + 1)
}

// prove checks that a node's metadata is signed by the key of its name.
func (p *Pool) prove(n *memberlist.Node, id Identity) error {
	if string(id.Member) != n.Name {
		return errNotIt
	}
	at, err := addrPort(n.Addr, n.Port)
	if err != nil {
		return err
	}
	return verifyMeta(n.Meta, p.opts.Fleet, id.Key, p.where(n.Name, at))
}

// look makes a new view. Only the worker calls it.
func (p *Pool) look(now time.Time) {
	v, cs, ask := p.survey(now)
	v.relays = elect(p.opts.Cell, now.Unix()/3600, cs)
	for i := range v.members {
		v.members[i].Relay = v.role(v.members[i].Name)
	}
	slices.SortFunc(v.members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	old := p.view.Swap(v)
	for _, name := range ask {
		p.packet(name, encodeWho(p.key))
	}
	if p.opts.Handlers.OnChange != nil && !(slices.Equal(old.members, v.members) && slices.Equal(old.relays, v.relays)) {
		p.opts.Handlers.OnChange()
	}
}

// survey lists who is there, who may be elected, and whose certificate is to be
// asked for.
func (p *Pool) survey(now time.Time) (v *view, cs []candidate, ask []fleet.MemberID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v = &view{nodes: map[fleet.MemberID]memberlist.Node{}, byKey: map[telemetry.KeyID]fleet.MemberID{}}
	for name, n := range p.nodes {
		m, err := parseMeta(n.Meta)
		if err != nil {
			continue // not reached: NotifyAlive refused it
		}
		id := fleet.MemberID(name)
		if p.opts.Barred(id) {
			continue
		}
		member := Member{Name: id, Addr: n.Address(), Key: m.key, Uplink: m.uplink, Share: m.share, Metered: m.metered}
		if pr := p.peers[m.key]; pr != nil && pr.identity.Key != nil {
			member.Proven = p.worker.proven(p, &n, pr.identity)
			member.Coordinator = member.Proven && pr.identity.Coordinator
		} else if (m.uplink || m.share > 0) && p.due(m.key, now) {
			ask = append(ask, id)
		}
		if member.Proven && m.uplink {
			cs = append(cs, candidate{id, m.weight, member.Coordinator})
		}
		if at, taken := v.byKey[m.key]; !taken || member.Proven || at > id {
			v.byKey[m.key] = id
		}
		v.nodes[id] = n
		v.members = append(v.members, member)
	}
	return v, cs, ask
}

// due says whether to ask for a key's certificate now, and notes that it was
// asked for: again and again, ever more slowly. p.mu is held.
func (p *Pool) due(key telemetry.KeyID, now time.Time) bool {
	pr := p.peers[key]
	if pr == nil {
		if len(p.peers) >= 4*MaxCell {
			p.forgetStrangers()
		}
		pr = &peer{}
		p.peers[key] = pr
	}
	if wait := p.opts.Timing.Tick << min(pr.tries, 5); pr.tries > 0 && now.Sub(pr.asked) < wait/2 {
		return false
	}
	pr.asked, pr.tries = now, pr.tries+1
	return true
}

// forgetStrangers drops keys of nobody in the cell. p.mu is held.
func (p *Pool) forgetStrangers() {
	used := map[telemetry.KeyID]bool{p.key: true}
	for _, n := range p.nodes {
		if m, err := parseMeta(n.Meta); err == nil {
			used[m.key] = true
		}
	}
	for key := range p.peers {
		if !used[key] {
			delete(p.peers, key)
		}
	}
}

// takeCert judges a certificate that a peer sent.
func (p *Pool) takeCert(cert []byte) {
	id, err := p.opts.Identify(cert)
	if err != nil || id.Key == nil {
		p.count.forged.Add(1)
		p.opts.Logger.Debug("peer's certificate refused", "err", err)
		return
	}
	key, err := telemetry.KeyIDOf(id.Key)
	if name, ok := p.view.Load().byKey[key]; err != nil || !ok || name != id.Member {
		p.count.forged.Add(1)
		return
	}
	p.mu.Lock()
	if p.peers[key] == nil {
		p.peers[key] = &peer{}
	}
	p.peers[key].cert, p.peers[key].identity = cert, id
	p.mu.Unlock()
	p.look(time.Now())
	p.release(key)
}

// identity is who holds a key, if that is known.
func (p *Pool) identity(key telemetry.KeyID) (Identity, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := p.peers[key]
	if pr == nil || pr.identity.Key == nil {
		return Identity{}, false
	}
	return pr.identity, true
}

// SetCertificate replaces the member's own certificate by a newer one of the
// same key.
func (p *Pool) SetCertificate(cert []byte) error {
	id, err := p.opts.Identify(cert)
	if err != nil {
		return fault.New(fault.KindOf(err), "set gossip certificate", string(p.opts.Member), err)
	}
	if id.Member != p.opts.Member || !p.self.Key.Equal(id.Key) || len(cert) > MaxCertificate {
		return fault.Newf(fault.Invalid, "set gossip certificate", string(p.opts.Member), "it is not of this member and key").
			WithHint("a member with a new key opens a new pool")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cert = cert
	p.peers[p.key].cert = cert
	return nil
}

// Recheck judges every certificate again, after revocations or authorities
// changed. Peers that no longer pass are asked for a new one.
func (p *Pool) Recheck() {
	p.mu.Lock()
	certs := map[telemetry.KeyID][]byte{}
	for key, pr := range p.peers {
		if pr.identity.Key != nil && key != p.key {
			certs[key] = pr.cert
		}
	}
	p.mu.Unlock()
	for key, cert := range certs {
		if _, err := p.opts.Identify(cert); err != nil {
			p.mu.Lock()
			p.peers[key] = &peer{}
			p.mu.Unlock()
		}
	}
	p.wake()
}

// packet sends one packet to a member; it may get lost.
func (p *Pool) packet(to fleet.MemberID, msg []byte) bool {
	n, ok := p.view.Load().nodes[to]
	if !ok {
		return false
	}
	if err := p.list.SendBestEffort(&n, msg); err != nil {
		p.opts.Logger.Debug("gossip packet not sent", "device", to, "err", err)
		return false
	}
	return true
}
