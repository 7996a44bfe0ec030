package publish

// ProofKeys are the objects that prove the directives in force to be in the audit log.
func (p *Publisher) ProofKeys() map[string]bool { return p.repository().ProofKeys() }
