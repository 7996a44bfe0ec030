package gossip

import (
	"crypto/sha256"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	maxSends   = 8  // bodies being sent at once
	maxWants   = 16 // packs being asked for at once
	maxHolders = 8  // members asked for one pack
	maxTries   = 12 // pulls of one pack
	maxBad     = 64 // refused packs remembered
)

// held is a pack that the member has and announces.
type held struct {
	announce
	body []byte
}

// want is a pack that others have and this member asks for.
type want struct {
	announce
	holders []string
	tries   int
	asked   time.Time
}

// hint is an announcement on its way through the cell; a newer one of the same
// group takes its place.
type hint struct {
	name string
	msg  []byte
}

var _ memberlist.NamedBroadcast = hint{}

// Invalidates is not asked of named broadcasts.
func (h hint) Invalidates(memberlist.Broadcast) bool { return false }

// Name is what a newer hint has in common with this one.
func (h hint) Name() string { return h.name }

// Message is the announcement.
func (h hint) Message() []byte { return h.msg }

// Finished is told when the hint was sent often enough.
func (h hint) Finished() {}

// Announce tells the cell that the member has a pack, one that it verified. A
// pack that is not newer than what it announced before is let pass.
func (p *Pool) Announce(pack Pack) error {
	if len(pack.Body) == 0 || len(pack.Body) > MaxPack || pack.Group == "" || len(pack.Group) > maxName {
		return fault.Newf(fault.Invalid, "announce pack", string(pack.Group), "%d bytes, want 1 to %d", len(pack.Body), MaxPack)
	}
	a := announce{
		holder: string(p.opts.Member), group: pack.Group, version: pack.Version,
		hash: sha256.Sum256(pack.Body), size: uint64(len(pack.Body)),
	}
	p.mu.Lock()
	old, ok := p.packs[pack.Group]
	news := !ok || old.version < pack.Version
	if news {
		p.packs[pack.Group] = held{a, pack.Body}
	}
	p.mu.Unlock()
	if news {
		msg := a.encode()
		p.packets.QueueBroadcast(hint{"pack/" + string(pack.Group), msg})
		p.eager(msg)
	}
	return nil
}

// SetCheckpoint says which checkpoint of the audit log the member was shown: it is
// compared in each push/pull. One that is too long is not told.
func (p *Pool) SetCheckpoint(signed string) {
	if len(signed) > MaxCheckpoint {
		signed = ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checkpoint = signed
}

// eagerSends is to how many members a new pack is announced at once.
const eagerSends = 4

// eager tells a few members at once, so that a pack need not wait a gossip
// interval at each step of its way; the broadcast reaches whom this misses.
func (p *Pool) eager(msg []byte) {
	members := p.view.Load().members
	for _, i := range rand.Perm(len(members))[:min(eagerSends, len(members))] {
		if name := members[i].Name; name != p.opts.Member {
			p.packet(name, msg)
		}
	}
}

// hear asks for a pack that is newer than what the member has.
func (p *Pool) hear(a announce) {
	w := &p.worker
	if a.group != p.opts.Group || a.holder == string(p.opts.Member) || w.bad[a.hash] || !p.newer(a) {
		return
	}
	x := w.wants[a.hash]
	if x == nil {
		if len(w.wants) >= maxWants {
			return // the next announcement or push/pull repeats it
		}
		x = &want{announce: a}
		w.wants[a.hash] = x
	}
	if len(x.holders) < maxHolders && !slices.Contains(x.holders, a.holder) {
		x.holders = append(x.holders, a.holder)
	}
	if x.tries == 0 {
		p.pull(x, time.Now())
	}
}

func (p *Pool) newer(a announce) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.packs[a.group]
	return !ok || (old.version < a.version && old.hash != a.hash)
}

func (p *Pool) pull(x *want, now time.Time) {
	holder := x.holders[x.tries%len(x.holders)]
	x.tries, x.asked = x.tries+1, now
	p.packet(fleet.MemberID(holder), pull{asker: string(p.opts.Member), hash: x.hash}.encode())
}

// pullAgain asks the next holder for what did not come.
func (p *Pool) pullAgain(now time.Time) {
	for hash, x := range p.worker.wants {
		switch {
		case !p.newer(x.announce) || x.tries >= maxTries:
			delete(p.worker.wants, hash)
		case now.Sub(x.asked) >= p.opts.Timing.Gossip<<(x.tries/4):
			p.pull(x, now)
		}
	}
}

// givePack sends a pack to a member that asked, beside the worker: a stream
// may take seconds.
func (p *Pool) givePack(q pull) {
	n, ok := p.view.Load().nodes[fleet.MemberID(q.asker)]
	p.mu.Lock()
	var body []byte
	for _, h := range p.packs {
		if h.hash == q.hash {
			body = h.body
		}
	}
	p.mu.Unlock()
	if !ok || body == nil {
		return
	}
	select {
	case p.sends <- struct{}{}:
	default:
		p.count.dropped.Add(1)
		return // it asks again, or another
	}
	p.workers.Go(func() {
		defer func() { <-p.sends }()
		if err := p.list.SendReliable(&n, encodeBody(body)); err != nil {
			p.opts.Logger.Debug("pack not sent", "device", q.asker, "err", err)
		}
	})
}

// takeBody has a pack judged that the member asked for.
func (p *Pool) takeBody(body []byte) {
	w := &p.worker
	hash := sha256.Sum256(body)
	x := w.wants[hash]
	if x == nil {
		p.count.forged.Add(1) // nobody asked for these bytes, or they came twice
		return
	}
	delete(w.wants, hash)
	if !p.newer(x.announce) {
		return
	}
	pack := Pack{Group: x.group, Version: x.version, Body: body}
	if p.opts.Handlers.OnPack == nil {
		return
	}
	version, err := p.opts.Handlers.OnPack(pack)
	if err != nil || version != pack.Version {
		if len(w.bad) >= maxBad {
			clear(w.bad)
		}
		w.bad[hash] = true // or a false version would have it fetched again and again
	}
	if err != nil {
		p.count.refused.Add(1)
		p.opts.Logger.Warn("pack from the cell refused", "device", x.holders[0], "err", err)
		return
	}
	pack.Version = version
	p.count.packs.Add(1)
	if err := p.Announce(pack); err != nil {
		p.opts.Logger.Warn("pack not announced", "err", err)
	}
}
