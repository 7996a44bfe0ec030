package publish

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Audit is what a publisher asks of the audit log: a directive goes into no pack
// before its entry is in the bucket, and proven. Nil fields ask nothing.
type Audit struct {
	// Prove brings the log to the bucket, and the proof that a directive is in it;
	// publicKey is the one that the policy lists.
	Prove func(ctx context.Context, publicKey string, g fleet.Group, directive []byte) ([]byte, error)
	// Taken records that other versions of root or policy are in force.
	Taken func(ctx context.Context, versions map[string]int64) error
}

// AuditKey is the public key of the audit log that the policy lists, or "".
func (p *Publisher) AuditKey() string { return p.repository().AuditKey() }

// Versions are those of root, policy and the roles in force.
func (p *Publisher) Versions() map[string]int64 { return p.repository().Versions() }

// FormerAuditKeys are the public keys of the audit log that policies listed
// before, newest first. It does not wait for writers: the log asks while one proves.
func (p *Publisher) FormerAuditKeys(ctx context.Context) ([]string, error) {
	return p.newest.Load().FormerAuditKeys(ctx)
}

// Audited gives the publisher its audit log.
func (p *Publisher) Audited(a Audit) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.audit = a
}

// prove has the proof of a directive made, while the policy lists an audit key;
// the caller holds writing.
func (p *Publisher) prove(ctx context.Context, g fleet.Group, directive []byte) error {
	key := p.repo.AuditKey()
	if key == "" || p.audit.Prove == nil {
		return nil
	}
	proof, err := p.audit.Prove(ctx, key, g, directive)
	if err != nil {
		return err
	}
	p.repo.Prove(fleet.DigestOf(directive), proof)
	return nil
}

// reload takes up new roots and policies, and the proofs that another audit key
// asks for; the caller holds writing.
func (p *Publisher) reload(ctx context.Context) error {
	news, err := p.repo.Reload(ctx)
	if err != nil {
		return err
	}
	p.untold = p.untold || news
	if err := p.disown(ctx); err != nil {
		return err
	}
	p.takeClock()
	if news {
		p.blind()
	}
	if err := p.tell(ctx); err != nil {
		return err
	}
	for g, body := range p.repo.Unproven() {
		if err := p.prove(ctx, g, body); err != nil {
			return err
		}
	}
	return nil
}

// tell records which root and policy are in force, and tells who has to know
// before members can; the caller holds writing. What fails is done again before
// anything else is signed.
func (p *Publisher) tell(ctx context.Context) error {
	if !p.untold {
		return nil
	}
	if p.audit.Taken != nil {
		if err := p.audit.Taken(ctx, p.repo.Versions()); err != nil {
			return err
		}
	}
	if p.o.Devices != nil {
		p.o.Devices(ctx, p.repo.DeviceCA())
	}
	p.untold = false
	return nil
}
