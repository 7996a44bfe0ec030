package audit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
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
	// Append adds entries that go with no other change.
	Append(ctx context.Context, notes ...Note) error
}

// Options say where a log is kept and who signs it.
type Options struct {
	Store  Store
	Bucket registry.Store
	// Key is the public key that checkpoints are signed for; "" while there is none:
	// the log is then kept, and nobody can check it.
	Key string
	// Keys opens the private key of a public one: of Key, and of the next one once
	// [Log.Prove] is asked for a proof by it.
	Keys func(ctx context.Context, public string) (note.Signer, error)
	// Former are the public keys that policies listed before, newest first. A store
	// that lacks entries takes them from the log that one of them signed. May be nil.
	Former func(context.Context) ([]string, error)
	// Restoring is told before the store takes entries that it lacks from the bucket,
	// since it was restored from an old copy or made anew. May be nil.
	Restoring func() error
	Logger    *slog.Logger
}

// Log brings the audit log to the bucket. There is one writer: what somebody else
// signed and put there is never written over. It is safe for concurrent use.
type Log struct {
	o Options

	mu        sync.Mutex // guards the following; held while publishing
	key       key
	head      Head
	published time.Time
}

// Head is the newest checkpoint that is in the bucket, as it was signed and with
// the public key that signed it; Note is "" before the first.
type Head struct {
	ledger.Checkpoint
	Note, Key string
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
	l := &Log{o: o}
	if o.Key == "" {
		return l, nil
	}
	var err error
	if l.key, err = l.open(ctx, o.Key); err != nil {
		return nil, err
	}
	theirs, signed, _, err := l.inBucket(ctx)
	if err != nil {
		return nil, err
	}
	if signed == "" {
		err = l.inherit(ctx)
	} else if err = l.reconcile(ctx, theirs); err == nil {
		l.head = Head{theirs, signed, o.Key}
	}
	if err != nil {
		return nil, err
	}
	return l, l.record(ctx, l.key)
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
	if l.key.public == "" {
		return nil
	}
	size, err := l.o.Store.AuditSize(ctx)
	if err != nil || size == l.head.Size && l.head.Key == l.key.public {
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
	next := ledger.Checkpoint{Origin: l.key.Name(), Size: size, Root: root}
	text, err := next.Sign(l.key)
	if err != nil {
		return fault.New(fault.Internal, "sign checkpoint", "", err)
	}
	if _, err := l.o.Bucket.Swap(ctx, ledger.CheckpointKey, []byte(text), etag); err != nil {
		return err
	}
	l.head = Head{next, text, l.key.public}
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

// Head is the newest checkpoint that is in the bucket.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}
