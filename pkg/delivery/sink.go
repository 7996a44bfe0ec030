package delivery

import (
	"errors"
	"os"
	"sync/atomic"
)

// checkpoints are part of every sink.
type checkpoints struct {
	fresh  atomic.Bool           // written to since the last one
	failed atomic.Pointer[error] // a failed sync is final: the pages may be gone
}

// checkpoint makes durable what was written to f since the last time.
func (c *checkpoints) checkpoint(f *os.File) {
	if !c.fresh.Swap(false) {
		return
	}
	if err := f.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		c.failed.Store(&err)
	}
}

// orFailed is err, or what a checkpoint met.
func (c *checkpoints) orFailed(err error) error {
	if failed := c.failed.Load(); err == nil && failed != nil {
		return *failed
	}
	return err
}
