package audit

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

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

// Entry proves an entry, counted from 0, by the newest checkpoint.
func (l *Log) Entry(ctx context.Context, index uint64) (api.AuditProof, error) {
	const op = "prove entry"
	head, number := l.Head(), strconv.FormatUint(index+1, 10)
	out := api.AuditProof{Key: head.Key, Proof: ledger.Proof{Checkpoint: head.Note, Index: index}}
	if index >= head.Size {
		return out, fault.Newf(fault.NotFound, op, number, "the newest checkpoint has %d entries", head.Size).
			WithHint("ask again in a minute: what was decided just now is not signed yet")
	}
	leaves, err := l.o.Store.AuditLeaves(ctx, index, 1)
	if err != nil {
		return out, err
	}
	if len(leaves) == 0 {
		return out, fault.Newf(fault.Internal, op, number, "the store lacks an entry that the checkpoint covers")
	}
	out.Proof.Leaf = leaves[0]
	e, err := ledger.ParseEntry(leaves[0])
	if err == nil {
		out.Proof.Path, err = tlog.ProveRecord(int64(head.Size), int64(index), l.o.Store.AuditHashes(ctx))
	}
	if err != nil {
		return out, fault.New(fault.Internal, op, number, err)
	}
	if e.Aside != nil {
		out.Aside, err = l.o.Store.AuditAside(ctx, e.Aside.Digest)
	}
	return out, err
}

// Prove publishes the log and puts the proof that a directive is in it into the
// bucket, for packs. publicKey is the one that the policy lists: another one than
// before is taken up, so that a new policy asks for no restart. The proof of a
// directive is made once; a later call finds it.
func (l *Log) Prove(ctx context.Context, publicKey string, g fleet.Group, directive []byte) ([]byte, error) {
	const op = "prove directive"
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.take(ctx, strings.TrimSuffix(publicKey, "\n")); err != nil {
		return nil, err
	}
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
	if err := l.o.Store.SaveAuditHead(ctx, l.head.Size, l.head.Note); err != nil {
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
	_, e, err := p.Check(l.key.verifier)
	if err != nil {
		return false
	}
	d, err := e.Directive()
	return err == nil && d.Group == g && d.Digest == digest
}

func (l *Log) prove(ctx context.Context, g fleet.Group, digest fleet.Digest) (ledger.Proof, error) {
	const op = "prove directive"
	p := ledger.Proof{Checkpoint: l.head.Note}
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
