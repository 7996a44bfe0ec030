package dir

import (
	"os"
	"time"
)

// clockLife is how long the folder's clock is believed without another look.
const clockLife = 10 * time.Second

// dated is when a file that was made got what time.
type dated struct{ given, asked time.Time }

// Time is [registry.Timed]'s: what a file that is made now is given for its time. On a
// share that is the server's clock. On a disk of this machine it is this machine's own,
// against which no error of it shows. It is not known where nothing may be written.
func (s *Store) Time() (time.Time, bool) {
	s.clock.Lock()
	defer s.clock.Unlock()
	if s.last.asked.IsZero() || time.Since(s.last.asked) > clockLife {
		asked := time.Now()
		given, err := s.stamp()
		if err != nil {
			return time.Time{}, false
		}
		s.last = dated{given, asked}
	}
	return s.last.given.Add(time.Since(s.last.asked)), true
}

// stamp makes an empty file, which has nothing that this machine dates, and looks at it.
func (s *Store) stamp() (time.Time, error) {
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return time.Time{}, err
	}
	defer os.Remove(f.Name())
	fi, err := f.Stat()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), nil
}
