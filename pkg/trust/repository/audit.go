package repository

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// AuditKey is the public key of the audit log that the policy lists; "" when it
// lists none.
func (r *Repository) AuditKey() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.auditKey()
}

func (r *Repository) auditKey() string { return string(r.policy.targets[trust.PathAuditKey]) }

// FormerAuditKeys are the public keys of the audit log that policies listed before
// the one in force, newest first.
func (r *Repository) FormerAuditKeys(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	was := &Repository{get: r.get, roots: r.roots, root: r.root}
	version, now := r.policy.meta.Signed.Version, r.auditKey()
	r.mu.Unlock()
	var keys []string
	for v := version - 1; v >= 1; v-- {
		raw, err := was.fetch(ctx, trust.MetadataKey(metadata.TARGETS, v))
		if fault.Is(err, fault.NotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		m, err := trust.Decode[metadata.TargetsType](raw)
		if err != nil || was.signedByAnyRoot(metadata.TARGETS, m) != nil || m.Signed.Targets[trust.PathAuditKey] == nil {
			continue // it lists none, or was never the policy
		}
		body, err := was.fetchTarget(ctx, trust.PathAuditKey, m.Signed.Targets[trust.PathAuditKey])
		if err != nil {
			return nil, err
		}
		if key := string(body); key != now && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// Unproven are the directives in force that no proof is known for: after the
// policy took up another audit key, or one for the first time.
func (r *Repository) Unproven() map[fleet.Group][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[fleet.Group][]byte{}
	for g, body := range r.current.directives {
		if key := r.auditKey(); key != "" && r.proofs[trust.AuditProofKey(key, fleet.DigestOf(body))] == nil {
			out[g] = body
		}
	}
	return out
}

// Prove gives the proof, a ledger.Proof, that a directive is in the audit log of
// the policy's key. It has to lie in the bucket already, as [trust.AuditProofKey].
func (r *Repository) Prove(directive fleet.Digest, proof []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	proofs := maps.Clone(r.proofs)
	if proofs == nil || len(proofs) > maxProofs {
		proofs = map[string]json.RawMessage{}
	}
	proofs[trust.AuditProofKey(r.auditKey(), directive)] = proof
	r.proofs = proofs
}

// maxProofs is how many proofs are kept in mind; older ones are asked for again.
const maxProofs = 1024

// readProofs reads the proofs of the directives in force. One that is not there
// is made anew by who keeps the log.
func (r *Repository) readProofs(ctx context.Context) error {
	r.proofs = map[string]json.RawMessage{}
	if r.auditKey() == "" {
		return nil
	}
	for _, body := range r.current.directives {
		key := trust.AuditProofKey(r.auditKey(), fleet.DigestOf(body))
		raw, err := r.fetch(ctx, key)
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			return err
		default:
			r.proofs[key] = raw
		}
	}
	return nil
}
