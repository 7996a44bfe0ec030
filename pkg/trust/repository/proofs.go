package repository

import (
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// ProofKeys are the objects that prove the directives in force to be in the audit
// log of the policy's key: who publishes a pack reads those, and no others.
func (r *Repository) ProofKeys() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := map[string]bool{}
	for _, body := range r.current.directives {
		keys[trust.AuditProofKey(r.auditKey(), fleet.DigestOf(body))] = true
	}
	return keys
}
