package desk

import (
	"errors"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

// cause is why a rule was broken, for people, without what was being done.
func cause(err error) string {
	if v, ok := errors.AsType[*trust.Violation](err); ok {
		return v.Err.Error()
	}
	return err.Error()
}
