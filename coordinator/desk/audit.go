package desk

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/api"
)

// Splits lists the evidence that somebody was shown another history.
func (d *Desk) Splits(ctx context.Context, by api.OperatorToken) ([]api.AuditSplit, error) {
	if err := AllowWhole(by, "list split views"); err != nil {
		return nil, err
	}
	return d.o.Store.Splits(ctx)
}
