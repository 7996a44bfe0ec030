package audit

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// Store is the log as it is kept: every method is one transaction, and entries
// are only ever added. Indexes count from 0.
type Store interface {
	AuditSize(ctx context.Context) (uint64, error)
	// AuditHashes reads the hashes of complete subtrees, as tlog stores them.
	AuditHashes(ctx context.Context) tlog.HashReader
	AuditLeaves(ctx context.Context, from uint64, limit int) ([][]byte, error)
	AuditAside(ctx context.Context, digest fleet.Digest) ([]byte, error)
	// AuditNewest is the newest entry of an action about a subject.
	AuditNewest(ctx context.Context, action, subject string) (index uint64, leaf []byte, err error)
	// RestoreAudit appends leaves and details if check agrees to what comes of it.
	RestoreAudit(ctx context.Context, leaves, asides [][]byte, check func(tlog.HashReader) error) error
	// SaveAuditHead and AuditHeads remember the checkpoints that went into packs.
	SaveAuditHead(ctx context.Context, size uint64, note string) error
	AuditHeads(ctx context.Context, n int) ([]uint64, error)
}

// Options say where a log is kept and who signs it.
type Options struct {
	Store  Store
	Bucket registry.Store
	Signer note.Signer // named after the fleet's log
	Key    string      // its public key
	// Former are the public keys that policies listed before, newest first. A store
	// that lacks entries takes them from the log that one of them signed. May be nil.
	Former func(context.Context) ([]string, error)
	Logger *slog.Logger
}

// Log brings the audit log to the bucket. There is one writer: what somebody else
// signed and put there is never written over. It is safe for concurrent use.
type Log struct {
	o        Options
	verifier note.Verifier

	mu        sync.Mutex // guards the following; held while publishing
	head      ledger.Checkpoint
	note      string // head, signed; "" before the first
	published time.Time
}

// since is how many earlier checkpoints a proof is made to agree with: a member
// that missed more asks the coordinator.
const since = 4

// publishEvery is how often a log that grows is published when no pack needs it.
const publishEvery = time.Minute

// Open compares the log with its checkpoint in the bucket. A store that lacks
// entries, because it was restored from an old copy or made anew, takes them from
// the tiles; one that has other entries is refused.
func Open(ctx context.Context, o Options) (*Log, error) {
	v, err := ledger.ParseKey(o.Key)
	if err != nil {
		return nil, fault.New(fault.Invalid, "open audit log", "", err)
	}
	l := &Log{o: o, verifier: v}
	theirs, signed, _, err := l.inBucket(ctx)
	if err != nil {
		return nil, err
	}
	if signed == "" {
		return l, l.inherit(ctx)
	}
	if err := l.reconcile(ctx, theirs); err != nil {
		return nil, err
	}
	l.head, l.note = theirs, signed
	return l, nil
}

// inBucket is the checkpoint in the bucket; signed is "" when there is none that
// our key signed.
func (l *Log) inBucket(ctx context.Context) (c ledger.Checkpoint, signed, etag string, err error) {
	body, etag, err := l.o.Bucket.Get(ctx, ledger.CheckpointKey, "")
	if fault.Is(err, fault.NotFound) {
		return c, "", "", nil
	}
	if err != nil {
		return c, "", "", err
	}
	c, err = ledger.Open(string(body), l.verifier)
	if err != nil {
		// After a rotation it is the old key's; else somebody put it there who
		// cannot sign. Neither is a reason to leave it.
		l.o.Logger.Warn("checkpoint in the bucket is not ours", "key", ledger.CheckpointKey, "err", err)
		return ledger.Checkpoint{}, "", etag, nil
	}
	return c, string(body), etag, nil
}

// inherit takes up what the store lacks of the log that a former key signed: the
// machine is gone with its disk and, so that the key is in nobody's hands, with its
// key. A store that has as much goes on by itself: a stolen key may have signed
// anything.
func (l *Log) inherit(ctx context.Context) error {
	body, _, err := l.o.Bucket.Get(ctx, ledger.CheckpointKey, "")
	if fault.Is(err, fault.NotFound) || l.o.Former == nil {
		return nil
	} else if err != nil {
		return err
	}
	keys, err := l.o.Former(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		v, err := ledger.ParseKey(key)
		if err != nil {
			return fault.New(fault.Invalid, "open audit log", key, err)
		}
		c, err := ledger.Open(string(body), v)
		if err != nil {
			continue // another one's
		}
		size, err := l.o.Store.AuditSize(ctx)
		if err != nil || size >= c.Size {
			return err
		}
		if err = l.reconcile(ctx, c); fault.Is(err, fault.Untrusted) {
			l.o.Logger.Error("log of a former key not taken up", "key", key, "err", err)
			return nil
		}
		return err
	}
	return nil
}

// reconcile makes the store hold what the checkpoint says.
func (l *Log) reconcile(ctx context.Context, c ledger.Checkpoint) error {
	const op = "open audit log"
	size, err := l.o.Store.AuditSize(ctx)
	if err != nil {
		return err
	}
	if size >= c.Size {
		root, err := ledger.RootOf(c.Size, l.o.Store.AuditHashes(ctx))
		if err != nil {
			return fault.New(fault.Internal, op, "", err)
		}
		if root != c.Root {
			return l.forked(op, c, root)
		}
		return nil
	}
	get := func(ctx context.Context, key string) ([]byte, error) {
		b, _, err := l.o.Bucket.Get(ctx, key, "")
		return b, err
	}
	leaves, err := ledger.Restore(ctx, get, size, c.Size)
	if err != nil {
		return err
	}
	asides, err := l.asides(ctx, get, leaves)
	if err != nil {
		return err
	}
	err = l.o.Store.RestoreAudit(ctx, leaves, asides, func(r tlog.HashReader) error {
		root, err := ledger.RootOf(c.Size, r)
		if err == nil && root != c.Root {
			return l.forked(op, c, root)
		}
		return err
	})
	if err == nil {
		l.o.Logger.Warn("audit log taken from the bucket, the store lacked a part", "had", size, "has", c.Size)
	}
	return err
}

func (l *Log) forked(op string, c ledger.Checkpoint, ours tlog.Hash) error {
	return fault.Newf(fault.Untrusted, op, ledger.CheckpointKey, "the bucket's log has the root hash %s over its %d entries, the store's has %s: two coordinators wrote, or the store was restored and went on alone", c.Root, c.Size, ours).
		WithHint("members hold the bucket's: keep a copy of coordinator.db, take it away, and start again: the log is then taken from the bucket. If the bucket's is the false one, rotate the audit key: modelfleet key rotate audit")
}

// asides reads the details that lie aside.
func (l *Log) asides(ctx context.Context, get ledger.Get, leaves [][]byte) ([][]byte, error) {
	var out [][]byte
	for _, leaf := range leaves {
		e, err := ledger.ParseEntry(leaf)
		if err != nil {
			return nil, fault.New(fault.Untrusted, "open audit log", "", err)
		}
		if e.Aside == nil {
			continue
		}
		b, err := get(ctx, ledger.DetailKey(e.Aside.Digest))
		if err == nil {
			_, err = e.Whole(b)
		}
		if err != nil {
			return nil, fault.New(fault.Untrusted, "open audit log", ledger.DetailKey(e.Aside.Digest), err)
		}
		out = append(out, b)
	}
	return out, nil
}

// Publish brings what was added since the last time to the bucket: tiles, then
// the checkpoint. A crash anywhere is repeated by the next one: tiles are made of
// what is in the store, so they are the same bytes again.
func (l *Log) Publish(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publish(ctx)
}

// PublishIfDue is [Log.Publish] when the log grew and was not published lately.
func (l *Log) PublishIfDue(ctx context.Context, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.published) < publishEvery {
		return nil
	}
	l.published = now
	return l.publish(ctx)
}

func (l *Log) publish(ctx context.Context) error {
	size, err := l.o.Store.AuditSize(ctx)
	if err != nil || size == l.head.Size && l.note != "" {
		return err
	}
	hashes := l.o.Store.AuditHashes(ctx)
	theirs, signed, etag, err := l.inBucket(ctx)
	if err != nil {
		return err
	}
	if signed != "" {
		// Any beginning of this log may be there: the answer to a swap may have been
		// lost, or the bucket set back.
		if err := l.ours(theirs, size, hashes); err != nil {
			return err
		}
	}
	root, err := ledger.RootOf(size, hashes)
	if err != nil {
		return fault.New(fault.Internal, "publish audit log", "", err)
	}
	if err := l.tiles(ctx, theirs.Size, size, hashes); err != nil {
		return err
	}
	next := ledger.Checkpoint{Origin: l.verifier.Name(), Size: size, Root: root}
	text, err := next.Sign(l.o.Signer)
	if err != nil {
		return fault.New(fault.Internal, "sign checkpoint", "", err)
	}
	if _, err := l.o.Bucket.Swap(ctx, ledger.CheckpointKey, []byte(text), etag); err != nil {
		return err
	}
	l.head, l.note = next, text
	return nil
}

// ours checks that a checkpoint that our key signed is of this log.
func (l *Log) ours(theirs ledger.Checkpoint, size uint64, hashes tlog.HashReader) error {
	const op = "publish audit log"
	if theirs.Size <= size {
		root, err := ledger.RootOf(theirs.Size, hashes)
		if err != nil {
			return fault.New(fault.Internal, op, "", err)
		}
		if root == theirs.Root {
			return nil
		}
	}
	return fault.Newf(fault.Conflict, op, ledger.CheckpointKey, "somebody else signed a checkpoint of %d entries with this log's key; ours has %d", theirs.Size, l.head.Size).
		WithHint("only one coordinator may write: stop the other one. If there is none, the audit key is stolen: modelfleet key rotate audit")
}

// tiles writes what a log that grew needs: details, bundles, hashes. All of it is
// immutable.
func (l *Log) tiles(ctx context.Context, from, to uint64, hashes tlog.HashReader) error {
	for _, t := range ledger.Tiles(from, to) {
		var body []byte
		var err error
		if t.L < 0 {
			body, err = l.bundle(ctx, t, from)
		} else {
			body, err = tlog.ReadTileData(t, hashes)
		}
		if err != nil {
			return err
		}
		if _, err := l.o.Bucket.Create(ctx, ledger.TileKey(t), registry.BodyOf(body)); err != nil {
			return err
		}
	}
	return nil
}

// bundle makes a bundle of entries, and writes the details that lie aside first.
func (l *Log) bundle(ctx context.Context, t tlog.Tile, from uint64) ([]byte, error) {
	first := uint64(t.N) << t.H
	leaves, err := l.o.Store.AuditLeaves(ctx, first, t.W)
	if err != nil {
		return nil, err
	}
	for i, leaf := range leaves {
		if first+uint64(i) < from {
			continue
		}
		e, err := ledger.ParseEntry(leaf)
		if err != nil {
			return nil, fault.New(fault.Internal, "publish audit log", "", err)
		}
		if e.Aside == nil {
			continue
		}
		body, err := l.o.Store.AuditAside(ctx, e.Aside.Digest)
		if err != nil {
			return nil, err
		}
		if _, err := l.o.Bucket.Create(ctx, ledger.DetailKey(e.Aside.Digest), registry.BodyOf(body)); err != nil {
			return nil, err
		}
	}
	return ledger.Bundle(leaves)
}

// Checkpoint is the newest that is in the bucket; note is "" before the first.
func (l *Log) Checkpoint() (c ledger.Checkpoint, note string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head, l.note
}

// Key is the log's public key.
func (l *Log) Key() string { return l.o.Key }

// Consistency proves that the log of from entries is the beginning of the log of to.
func (l *Log) Consistency(ctx context.Context, from, to uint64) (root tlog.Hash, path []tlog.Hash, err error) {
	const op = "prove consistency"
	size, err := l.o.Store.AuditSize(ctx)
	if err != nil {
		return root, nil, err
	}
	if from > to || to > size {
		return root, nil, fault.Newf(fault.Invalid, op, "", "from %d to %d in a log of %d entries", from, to, size)
	}
	hashes := l.o.Store.AuditHashes(ctx)
	if root, err = ledger.RootOf(from, hashes); err == nil {
		path, err = ledger.ProveConsistency(from, to, hashes)
	}
	if err != nil {
		return root, nil, fault.New(fault.Internal, op, "", err)
	}
	return root, path, nil
}

// Entry proves an entry, counted from 0, by the newest checkpoint. aside is the
// detail that lies aside, or nil.
func (l *Log) Entry(ctx context.Context, index uint64) (p ledger.Proof, aside []byte, err error) {
	const op = "prove entry"
	head, signed := l.Checkpoint()
	if index >= head.Size {
		return p, nil, fault.Newf(fault.NotFound, op, strconv.FormatUint(index+1, 10), "the newest checkpoint has %d entries", head.Size).
			WithHint("ask again in a minute: what was decided just now is not signed yet")
	}
	leaves, err := l.o.Store.AuditLeaves(ctx, index, 1)
	if err != nil || len(leaves) == 0 {
		return p, nil, err
	}
	p = ledger.Proof{Checkpoint: signed, Index: index, Leaf: leaves[0]}
	e, err := ledger.ParseEntry(leaves[0])
	if err == nil {
		p.Path, err = tlog.ProveRecord(int64(head.Size), int64(index), l.o.Store.AuditHashes(ctx))
	}
	if err != nil {
		return p, nil, fault.New(fault.Internal, op, strconv.FormatUint(index+1, 10), err)
	}
	if e.Aside != nil {
		aside, err = l.o.Store.AuditAside(ctx, e.Aside.Digest)
	}
	return p, aside, err
}

// Prove publishes the log and puts the proof that a directive is in it into the
// bucket, for packs. publicKey is the one that the policy lists. The proof of a
// directive is made once; a later call finds it.
func (l *Log) Prove(ctx context.Context, publicKey string, g fleet.Group, directive []byte) ([]byte, error) {
	const op = "prove directive"
	if publicKey != l.o.Key && publicKey != l.o.Key+"\n" {
		return nil, trust.Violated(trust.RuleAudit, op, string(g), errOtherKey).
			WithHint("start the coordinator with the audit key that the policy lists: -audit-key")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.publish(ctx); err != nil {
		return nil, err
	}
	digest := fleet.DigestOf(directive)
	key := trust.AuditProofKey(publicKey, digest)
	if raw, _, err := l.o.Bucket.Get(ctx, key, ""); err == nil && l.proves(raw, g, digest) {
		return raw, nil
	} else if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	p, err := l.prove(ctx, g, digest)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fault.New(fault.Internal, op, string(g), err)
	}
	if err := l.o.Store.SaveAuditHead(ctx, l.head.Size, l.note); err != nil {
		return nil, err
	}
	_, err = l.o.Bucket.Create(ctx, key, registry.BodyOf(raw))
	return raw, err
}

// proves reports whether a proof in the bucket is good: anybody may have put it there.
func (l *Log) proves(raw []byte, g fleet.Group, digest fleet.Digest) bool {
	p, err := ledger.ParseProof(raw)
	if err != nil {
		return false
	}
	_, e, err := p.Check(l.verifier)
	if err != nil {
		return false
	}
	d, err := e.Directive()
	return err == nil && d.Group == g && d.Digest == digest
}

func (l *Log) prove(ctx context.Context, g fleet.Group, digest fleet.Digest) (ledger.Proof, error) {
	const op = "prove directive"
	p := ledger.Proof{Checkpoint: l.note}
	index, leaf, err := l.o.Store.AuditNewest(ctx, DirectiveIssued, string(g))
	if err != nil {
		return p, err
	}
	e, err := ledger.ParseEntry(leaf)
	if err != nil {
		return p, fault.New(fault.Internal, op, string(g), err)
	}
	if d, err := e.Directive(); err != nil || d.Digest != digest {
		return p, fault.Newf(fault.Conflict, op, string(g), "the newest entry of the audit log is about directive %d, not about the one with digest %s: the store is older than the log", d.Sequence, digest.Short()).
			WithHint("it was restored from an old copy: keep coordinator.db elsewhere, and start without it; log and directive are then taken from the bucket, and what is lost is what the copy lacked")
	}
	hashes := l.o.Store.AuditHashes(ctx)
	p.Index, p.Leaf = index, leaf
	path, err := tlog.ProveRecord(int64(l.head.Size), int64(index), hashes)
	if err != nil {
		return p, fault.New(fault.Internal, op, string(g), err)
	}
	p.Path = path
	sizes, err := l.o.Store.AuditHeads(ctx, since+1)
	if err != nil {
		return p, err
	}
	for _, n := range slices.DeleteFunc(sizes, func(n uint64) bool { return n >= l.head.Size }) {
		path, err := ledger.ProveConsistency(n, l.head.Size, hashes)
		if err != nil {
			return p, fault.New(fault.Internal, op, string(g), err)
		}
		if p.Since = append(p.Since, ledger.Since{Size: n, Path: path}); len(p.Since) == since {
			break
		}
	}
	return p, nil
}
