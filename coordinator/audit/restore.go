package audit

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

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
	c, err = ledger.Open(string(body), l.key.verifier)
	if err == nil {
		return c, string(body), etag, nil
	}
	// Whoever signed it, it is no reason to stop: it is written over.
	if _, former, ferr := l.byFormer(ctx, body); former != "" {
		l.o.Logger.Info("checkpoint of the former audit key is replaced by one of the new key", "key", ledger.CheckpointKey, "former", former)
	} else {
		l.o.Logger.Warn("checkpoint in the bucket is not ours", "key", ledger.CheckpointKey, "err", errors.Join(err, ferr))
	}
	return ledger.Checkpoint{}, "", etag, nil
}

// byFormer is the checkpoint that a key signed which a policy listed before, and
// that key; "" when none did.
func (l *Log) byFormer(ctx context.Context, body []byte) (c ledger.Checkpoint, key string, err error) {
	if l.o.Former == nil {
		return c, "", nil
	}
	keys, err := l.o.Former(ctx)
	if err != nil {
		return c, "", err
	}
	for _, key := range keys {
		v, err := ledger.ParseKey(key)
		if err != nil {
			return c, "", fault.New(fault.Invalid, "open audit log", key, err)
		}
		if c, err := ledger.Open(string(body), v); err == nil {
			return c, key, nil
		}
	}
	return c, "", nil
}

// inherit takes up what the store lacks of the log that a former key signed: the
// machine is gone with its disk and, so that the key is in nobody's hands, with its
// key. A store that has as much goes on by itself: a stolen key may have signed
// anything.
func (l *Log) inherit(ctx context.Context) error {
	body, _, err := l.o.Bucket.Get(ctx, ledger.CheckpointKey, "")
	if fault.Is(err, fault.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	c, key, err := l.byFormer(ctx, body)
	if err != nil || key == "" {
		return err
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
	if l.o.Restoring != nil {
		if err := l.o.Restoring(); err != nil {
			return err
		}
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
