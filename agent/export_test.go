package agent

import (
	"io/fs"
	"time"
)

// WithDisk returns options with which the agent writes its own files by write.
func WithDisk(o Options, write func(path string, data []byte, perm fs.FileMode) error) Options {
	o.write = write
	return o
}

// WithClock returns options with which the agent takes wall for the device's clock.
func WithClock(o Options, wall func() time.Time) Options {
	o.wall = wall
	return o
}
