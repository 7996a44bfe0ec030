package cas

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Lock is a file that one holder has at a time: its own process, and no other. The
// kernel keeps it, so it ends with the process, however that ends.
type Lock struct{ file *os.File }

// TakeLock takes the lock that the file at path is, and makes the file when it is
// missing. While somebody has it the error is a Conflict that says which process.
// A lock is had on a read-only disk too.
func TakeLock(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, syscall.EROFS) {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, Classify("take lock", path, err)
	}
	err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		err = fault.Newf(fault.Conflict, "take lock", path, "%s has it", holder(f))
	}
	if err != nil {
		return nil, errors.Join(Classify("take lock", path, err), f.Close())
	}
	l := &Lock{file: f}
	l.sign()
	return l, nil
}

// WaitLock takes the lock that f is, waiting as long as somebody has it. The lock
// closes f when it is given free.
func WaitLock(f *os.File) (*Lock, error) {
	if err := flock(f, syscall.LOCK_EX); err != nil {
		return nil, errors.Join(Classify("wait for lock", f.Name(), err), f.Close())
	}
	return &Lock{file: f}, nil
}

// flock is the system call, begun again when a signal came between.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

// Lies reports whether the file at path is this lock's: another disk may have been
// mounted there since. An error says that nothing can be seen there.
func (l *Lock) Lies(path string) (bool, error) {
	now, err := os.Stat(path)
	if err != nil {
		return false, Classify("look at lock", path, err)
	}
	began, err := l.file.Stat()
	if err != nil {
		return false, Classify("look at lock", path, err)
	}
	return os.SameFile(now, began), nil
}

// Release gives the lock free. Closing alone would not at once: a program that is
// being started has the file too, until it runs.
func (l *Lock) Release() error {
	return errors.Join(flock(l.file, syscall.LOCK_UN), l.file.Close())
}

// sign writes into the file who has it. That is for people: where it cannot be
// written, on a disk that is full or read-only, the lock is as good.
func (l *Lock) sign() {
	if l.file.Truncate(0) == nil {
		_, _ = fmt.Fprintf(l.file, "%s (process %d)\n", filepath.Base(os.Args[0]), os.Getpid())
	}
}

// holder is who has a lock, in words.
func holder(f *os.File) string {
	text, err := io.ReadAll(io.LimitReader(f, 200))
	if line, _, whole := strings.Cut(string(text), "\n"); err == nil && whole {
		return line
	}
	return "another process"
}
