package audit

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// keepProof is how long the proof of a directive stays once a newer directive of its
// group has one: who read the metadata before has made the pack by then.
const keepProof = 24 * time.Hour

// SweepProofs removes the proofs that no pack is made of any more. Members have theirs
// in the pack, and auditors make their own from the tiles; only who publishes packs
// reads these objects, and only those of the directives in force.
//
// publicKey is the log's key that the policy lists. inForce are the keys of the objects
// of the directives in force: they stay in any case. Another proof goes when it has been
// there for a day, and so has one of a newer directive of its group, or of the same
// directive by publicKey. What is no proof of an entry of this log stays, and no other
// proof goes because of it.
func (l *Log) SweepProofs(ctx context.Context, publicKey string, inForce map[string]bool, now time.Time) (removed int, err error) {
	const op = "sweep audit proofs"
	bucket, can := l.o.Bucket.(registry.Remover)
	if !can || publicKey == "" {
		return 0, nil
	}
	proofs := map[fleet.Group][]proofObject{}
	for o, err := range l.o.Bucket.List(ctx, trust.AuditProofs) {
		if err != nil {
			return 0, fault.New(fault.KindOf(err), op, trust.AuditProofs, err)
		}
		if now.Sub(o.Modified) < keepProof {
			continue // it is not old enough to go, nor for another to go by it
		}
		if o.Size > trust.MaxPack {
			continue // no pack could carry it: somebody put it there
		}
		p, err := l.proofIn(ctx, o.Key, publicKey)
		if err != nil {
			return 0, fault.New(fault.KindOf(err), op, o.Key, err)
		}
		if p.key != "" {
			proofs[p.group] = append(proofs[p.group], p)
		}
	}
	for _, ps := range proofs {
		for _, p := range ps {
			if inForce[p.key] || !p.outdated(ps) {
				continue
			}
			if err := bucket.Remove(ctx, p.key); err != nil {
				return removed, fault.New(fault.KindOf(err), op, p.key, err).WithHint("let the coordinator remove objects below audit/tile/, audit/proof/ and proposals/ (s3:DeleteObject)")
			}
			removed++
		}
	}
	return removed, nil
}

// proofObject is a proof in the bucket, of an entry of this log.
type proofObject struct {
	key     string
	group   fleet.Group
	index   uint64
	current bool // it is by the key that the policy lists
}

// outdated reports whether another one took its place.
func (p proofObject) outdated(all []proofObject) bool {
	for _, o := range all {
		if o.current && (o.index > p.index || (o.index == p.index && !p.current)) {
			return true
		}
	}
	return false
}

// proofIn reads a proof; one that is not of an entry of this log, under the name that
// it should have, is none.
func (l *Log) proofIn(ctx context.Context, key, publicKey string) (proofObject, error) {
	var none proofObject
	raw, _, err := l.o.Bucket.Get(ctx, key, "")
	if fault.Is(err, fault.NotFound) {
		return none, nil
	} else if err != nil {
		return none, err
	}
	proof, err := ledger.ParseProof(raw)
	if err != nil {
		return none, nil
	}
	leaves, err := l.o.Store.AuditLeaves(ctx, proof.Index, 1)
	if err != nil {
		return none, err
	}
	if len(leaves) != 1 || !bytes.Equal(leaves[0], proof.Leaf) {
		return none, nil
	}
	e, err := ledger.ParseEntry(proof.Leaf)
	if err != nil {
		return none, nil
	}
	d, err := e.Directive()
	if err != nil || !strings.HasSuffix(key, "/"+d.Digest.String()+".json") {
		return none, nil
	}
	return proofObject{key: key, group: d.Group, index: proof.Index, current: key == trust.AuditProofKey(publicKey, d.Digest)}, nil
}
