package agent

import (
	"io/fs"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// WithDisk returns options with which the agent writes its own files by write.
func WithDisk(o Options, write func(path string, data []byte, perm fs.FileMode) error) Options {
	o.write = write
	return o
}

// WithClock returns options with which the agent takes wall for the device's clock.
func WithClock(o Options, wall func() time.Time) Options {
	o.Clock = wall
	return o
}

// WithTrap returns options with which the agent's verifier calls trap first.
func WithTrap(o Options, trap func(pack []byte)) Options {
	o.verify = func(pack []byte, st trust.State, f fleet.Facts, now time.Time) (trust.Trusted, trust.State, error) {
		trap(pack)
		return trust.Verify(pack, st, f, now)
	}
	return o
}
