package agent

import "io/fs"

// WithDisk returns options with which the agent writes its own files by write.
func WithDisk(o Options, write func(path string, data []byte, perm fs.FileMode) error) Options {
	o.write = write
	return o
}
