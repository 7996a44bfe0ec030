package desk

import (
	"context"

	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// Health is what a person should know of the fleet's keys and metadata.
func (d *Desk) Health(context.Context, api.OperatorToken) (api.Health, error) {
	now := d.o.Now().UTC()
	facts, err := d.o.Publisher.Standing(now)
	if err != nil {
		return api.Health{}, err
	}
	if i := d.o.Issuer; i != nil {
		facts.SignIn = i.Trouble()
	}
	out := api.Health{At: now, Version: d.o.Version, Findings: health.Findings(facts, now), Expiries: health.Expiries(facts)}
	if out.Findings == nil {
		out.Findings = []api.Finding{}
	}
	return out, nil
}
