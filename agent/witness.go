package agent

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// witness makes the device one of those who watch the audit log: what checkpoint
// neighbours were shown, and that a log which grew is still the one it was. The
// loop owns what is known; the goroutine of [agent.watch] asks the coordinator.
type witness struct {
	notes  chan string                      // signed checkpoints from the cell
	proofs chan headProof                   // what the coordinator proved
	known  atomic.Pointer[trust.AuditState] // what is to be asked about
}

// headProof is the coordinator's proof about an open head.
type headProof struct {
	head trust.Head // the one that the proof leads to, or comes from
	open trust.Head
	root tlog.Hash // of the smaller one, as the coordinator says
	path []tlog.Hash
}

func newWitness() *witness {
	return &witness{notes: make(chan string, 8), proofs: make(chan headProof)}
}

// hear takes a checkpoint from the cell; when there are too many, the next
// push/pull repeats it.
func (w *witness) hear(signed string) {
	select {
	case w.notes <- signed:
	default:
	}
}

// compare compares a neighbour's checkpoint with what this device was shown.
func (l *loop) compare(signed string) {
	next, err := l.mem.Trust.Audit.Witness(signed)
	if err != nil {
		l.o.Logger.Debug("checkpoint from the cell is not the log's", "err", err)
		return
	}
	l.audited(next)
}

// proven takes over a proof, unless the log went on meanwhile.
func (l *loop) proven(p headProof) {
	if now := l.mem.Trust.Audit; p.head == now.Head {
		if next, err := now.Prove(p.open, p.root, p.path); err == nil {
			l.audited(next)
		}
	}
}

// audited keeps what is known of the log. A split view makes the device UNTRUSTED
// until the policy lists another audit key; both checkpoints are kept as evidence.
func (l *loop) audited(next trust.AuditState) {
	old := l.mem.Trust.Audit
	if next.Equal(old) {
		return
	}
	if next.Split != nil && old.Split == nil {
		l.o.Logger.Error("split view of the audit log", "rule", string(trust.RuleAudit), "err", next.Split, "mine", next.Split.Mine, "theirs", next.Split.Theirs)
	}
	mem := l.mem
	mem.Trust.Audit = next
	if err := l.save(mem); err != nil {
		l.o.Logger.Warn("checkpoints not written", "err", err)
		l.mem.Trust.Audit = next // what was seen counts, until the next start at least
	}
}

// watched tells those who ask and those who gossip what is known now.
func (l *loop) watched() {
	now := l.mem.Trust.Audit
	if was := l.witness.known.Swap(&now); was == nil || was.Head != now.Head {
		l.gossiped(now.Head.Note)
	}
}

// logHead is what rows say of the log.
func (l *loop) logHead() telemetry.LogHead {
	h := l.mem.Trust.Audit.Head
	return telemetry.LogHead{Size: h.Size, Root: [16]byte(h.Root[:])}
}

// auditView is what people at the device see; nil while there is no log.
func (l *loop) auditView() *local.Audit {
	now := l.mem.Trust.Audit
	if now.Key == "" {
		return nil
	}
	v := &local.Audit{Entries: now.Head.Size, Root: now.Head.Root.String(), Unproven: len(now.Open), Checkpoint: now.Head.Note}
	if now.Split != nil {
		v.Split, v.Mine, v.Theirs = now.Split.Error(), now.Split.Mine, now.Split.Theirs
	}
	return v
}

// watch asks the coordinator for the proofs that are missing and tells it of a
// split view, until ctx ends. A coordinator that does not answer leaves the heads
// open, and people see it; so does one whose proof shows nothing.
func (a *agent) watch(ctx context.Context) {
	w, told := a.loop.witness, map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(a.o.Report/2 + rand.N(a.o.Report)):
		}
		known := w.known.Load()
		if known == nil {
			continue
		}
		if s := known.Split; s != nil {
			a.tell(ctx, told, s.Mine, s.Theirs)
			continue
		}
		for _, open := range known.Open {
			a.askProof(ctx, told, *known, open)
		}
	}
}

// askProof asks for the proof of an open head, and says so when what comes is none:
// whoever answers as the coordinator may err or lie, and is asked again.
func (a *agent) askProof(ctx context.Context, told map[string]bool, known trust.AuditState, open trust.Head) {
	head := known.Head
	from, to := min(open.Size, head.Size), max(open.Size, head.Size)
	r, err := a.me.Client().AuditConsistency(ctx, from, to)
	switch {
	case fault.Is(err, fault.Invalid): // its log is shorter than one that it, or somebody with its key, signed
		a.tell(ctx, told, head.Note, open.Note)
	case err != nil:
		a.o.Logger.Debug("no proof of consistency", "from", from, "to", to, "err", err)
	default:
		if _, err := known.Prove(open, r.Root, r.Path); err != nil {
			a.o.Logger.Warn("proof of consistency shows nothing", "from", from, "to", to, "err", err)
			a.tell(ctx, told, head.Note, open.Note)
			return
		}
		select {
		case a.loop.witness.proofs <- headProof{head: head, open: open, root: r.Root, path: r.Path}:
		case <-ctx.Done():
		}
	}
}

// tell gives the coordinator checkpoints that do not fit, each once.
func (a *agent) tell(ctx context.Context, told map[string]bool, notes ...string) {
	key := ""
	for _, n := range notes {
		key += n
	}
	if told[key] {
		return
	}
	if err := a.me.Client().AuditWitness(ctx, api.AuditWitness{Notes: notes}); err != nil {
		a.o.Logger.Warn("checkpoints not reported", "err", err)
		return
	}
	told[key] = true
}

// gossipCheckpoint gives the cell the checkpoint that the device was shown.
func (a *agent) gossipCheckpoint(signed string) {
	if p := a.pool.Load(); p != nil {
		p.SetCheckpoint(signed)
	}
}
