package artifact

import (
	"errors"
	"io/fs"
	"os"
)

// spool is a temporary file without a name, where the system lets one be without:
// also a process that is killed leaves nothing of it behind.
type spool struct {
	*os.File
	named bool
}

func newSpool(dir, pattern string) (*spool, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	return &spool{f, os.Remove(f.Name()) != nil}, nil
}

// Close lets go of the file, and of its name if it has one.
func (s *spool) Close() error {
	err := s.File.Close()
	if s.named {
		if rerr := os.Remove(s.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
