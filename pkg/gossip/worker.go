package gossip

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Bounds of what waits for a certificate to come.
const (
	maxStashKeys = MaxCell
	maxStash     = 4
)

// workerState belongs to the worker goroutine.
type workerState struct {
	stash map[telemetry.KeyID][][]byte // messages of keys not known yet
	acks  map[telemetry.KeyID][]MessageID
	wants map[[sha256.Size]byte]*want
	bad   map[[sha256.Size]byte]bool // packs that were refused
	seen  map[string]proof

	told       Stats // when complain spoke last
	complained time.Time
}

// proof remembers a check of metadata, which members repeat often.
type proof struct {
	meta []byte
	addr string
	key  telemetry.KeyID
	ok   bool
}

func newWorkerState() workerState {
	return workerState{
		stash: map[telemetry.KeyID][][]byte{}, acks: map[telemetry.KeyID][]MessageID{},
		wants: map[[32]byte]*want{}, bad: map[[32]byte]bool{}, seen: map[string]proof{},
	}
}

func (w *workerState) proven(p *Pool, n *memberlist.Node, id Identity) bool {
	key, err := telemetry.KeyIDOf(id.Key)
	if err != nil {
		return false
	}
	old, ok := w.seen[n.Name]
	if ok && bytes.Equal(old.meta, n.Meta) && old.addr == n.Address() && old.key == key {
		return old.ok
	}
	if len(w.seen) > 4*MaxCell {
		clear(w.seen)
	}
	now := proof{n.Meta, n.Address(), key, p.prove(n, id) == nil}
	if !now.ok {
		p.count.forged.Add(1)
	}
	w.seen[n.Name] = now
	return now.ok
}

// work handles messages, one after the other, and looks at the members when
// they changed and once a tick.
func (p *Pool) work() {
	tick := time.NewTicker(p.opts.Timing.Tick)
	defer tick.Stop()
	pulls := time.NewTimer(0)
	defer pulls.Stop()
	p.look(time.Now())
	for {
		select {
		case <-p.stop:
			return
		case <-p.changed:
			p.turnKeys(time.Now())
			p.look(time.Now())
		case now := <-tick.C:
			p.turnKeys(now)
			p.look(now)
			p.complain(now)
		case now := <-pulls.C:
			p.pullAgain(now)
			if len(p.worker.wants) > 0 {
				pulls.Reset(p.opts.Timing.Gossip)
			}
		case msg := <-p.inbox:
			idle := len(p.worker.wants) == 0
			p.guarded(msg)
			if idle && len(p.worker.wants) > 0 {
				pulls.Reset(p.opts.Timing.Gossip)
			}
			if len(p.inbox) == 0 {
				p.sendAcks()
			}
		}
	}
}

// guarded handles a message that may bring code to panic, of the pool's or of
// its owner's: it then counts as malformed.
func (p *Pool) guarded(msg []byte) {
	err := guard.Do(p.opts.Logger, "handle gossip", p.opts.Cell, func() error {
		p.handle(msg)
		return nil
	})
	if err != nil {
		p.count.malformed.Add(1)
	}
}

func (p *Pool) handle(msg []byte) {
	if len(msg) == 0 {
		p.count.malformed.Add(1)
		return
	}
	var err error
	switch msg[0] {
	case telemetry.KindRow, telemetry.KindWindow:
		err = p.takeMessage(msg)
	case kindAck:
		err = p.takeAck(msg)
	case kindWho:
		var asker telemetry.KeyID
		if asker, err = parseWho(msg); err == nil {
			p.mu.Lock()
			cert := p.cert
			p.mu.Unlock()
			p.packet(p.view.Load().byKey[asker], encodeCert(cert))
		}
	case kindCert:
		var cert []byte
		if cert, err = parseCert(msg); err == nil {
			p.takeCert(cert)
		}
	case kindAnnounce:
		var a announce
		if a, err = parseAnnounce(msg); err == nil {
			p.hear(a)
		}
	case kindState:
		var as []announce
		var checkpoint string
		if as, checkpoint, err = parseState(msg); err == nil {
			for _, a := range as {
				p.hear(a)
			}
			if checkpoint != "" && p.opts.Handlers.OnCheckpoint != nil {
				p.opts.Handlers.OnCheckpoint(checkpoint)
			}
		}
	case kindPull:
		var q pull
		if q, err = parsePull(msg); err == nil {
			p.givePack(q)
		}
	case kindBody:
		var body []byte
		if body, err = parseBody(msg); err == nil {
			p.takeBody(body)
		}
	default:
		err = errWire
	}
	if err != nil {
		p.count.malformed.Add(1)
	}
}

// takeMessage hands a row or window on once its signature was checked. When the
// key is not known yet the message waits for the certificate.
func (p *Pool) takeMessage(raw []byte) error {
	m, err := telemetry.ParseMessage(raw)
	if err != nil {
		return err
	}
	key := m.Key()
	id, ok := p.identity(key)
	if !ok {
		p.wait(key, raw)
		return nil
	}
	if err := m.Verify(p.opts.Fleet, id.Key); err != nil {
		p.count.forged.Add(1)
		return nil
	}
	p.count.messages.Add(1)
	if p.opts.Handlers.OnMessage != nil && p.opts.Handlers.OnMessage(m, id) {
		p.queueAck(key, IDOf(raw))
	}
	return nil
}

func (p *Pool) wait(key telemetry.KeyID, raw []byte) {
	w := &p.worker
	name, ok := p.view.Load().byKey[key]
	if !ok || len(w.stash) >= maxStashKeys {
		p.count.unknown.Add(1)
		return
	}
	if old := w.stash[key]; len(old) >= maxStash {
		w.stash[key] = slices.Delete(old, 0, 1)
		p.count.unknown.Add(1)
	}
	w.stash[key] = append(w.stash[key], raw)
	p.mu.Lock()
	ask := p.due(key, time.Now())
	p.mu.Unlock()
	if ask {
		p.packet(name, encodeWho(p.key))
	}
}

// release handles what waited for a certificate.
func (p *Pool) release(key telemetry.KeyID) {
	msgs := p.worker.stash[key]
	delete(p.worker.stash, key)
	for _, m := range msgs {
		p.handle(m)
	}
}

// Send addresses a signed row or window to the cell's relays and returns to how
// many; 0 means that the cell has none. If the member is a relay itself, its
// own [Handlers.OnMessage] gets it as well.
func (p *Pool) Send(msg []byte) (int, error) {
	if len(msg) > maxPacket {
		return 0, fault.Newf(fault.Invalid, "send to relays", p.opts.Cell, "%d bytes, at most %d", len(msg), maxPacket)
	}
	n := 0
	for _, relay := range p.view.Load().relays {
		if relay == p.opts.Member {
			(*delegate)(p).NotifyMsg(msg)
			n++
		} else if p.packet(relay, msg) {
			n++
		}
	}
	return n, nil
}

// Ack tells members that the coordinator has their messages. Call it when that
// is so, not before: a member counts on it.
func (p *Pool) Ack(msgs ...telemetry.Message) {
	acks := map[telemetry.KeyID][]MessageID{}
	for _, m := range msgs {
		acks[m.Key()] = append(acks[m.Key()], IDOf(m.Raw))
	}
	for key, ids := range acks {
		p.ack(key, ids)
	}
}

func (p *Pool) queueAck(key telemetry.KeyID, id MessageID) {
	p.worker.acks[key] = append(p.worker.acks[key], id)
	if len(p.worker.acks[key]) == maxAckIDs {
		p.sendAcks()
	}
}

func (p *Pool) sendAcks() {
	for key, ids := range p.worker.acks {
		p.ack(key, ids)
	}
	clear(p.worker.acks)
}

func (p *Pool) ack(key telemetry.KeyID, ids []MessageID) {
	to, ok := p.view.Load().byKey[key]
	if !ok || key == p.key {
		return
	}
	for part := range slices.Chunk(ids, maxAckIDs) {
		body := ackBody{relay: p.key, member: key, ids: part}.encode()
		sealed, err := telemetry.Seal(telemetry.AckDomain, p.opts.Fleet, p.opts.Signer, body)
		if err != nil {
			p.opts.Logger.Warn("ack not signed", "err", err)
			return
		}
		p.packet(to, sealed)
	}
}

func (p *Pool) takeAck(msg []byte) error {
	if len(msg) < telemetry.SignatureSize {
		return errWire
	}
	a, err := parseAck(msg[:len(msg)-telemetry.SignatureSize])
	if err != nil {
		return err
	}
	id, ok := p.identity(a.relay)
	if !ok {
		p.count.unknown.Add(1)
		return nil
	}
	if _, err := telemetry.Open(telemetry.AckDomain, p.opts.Fleet, id.Key, msg); err != nil || a.member != p.key {
		p.count.forged.Add(1)
		return nil
	}
	p.count.acks.Add(1)
	if p.opts.Handlers.OnAck != nil {
		p.opts.Handlers.OnAck(Ack{Relay: id.Member, Messages: a.ids})
	}
	return nil
}
