package cas

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Classify makes a file system's error one of pkg/fault: a full disk, quota or
// file table is Exhausted, a missing file NotFound, a refusal Denied, the rest
// Internal. A nil error stays nil.
func Classify(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	f := fault.New(faultKind(err), op, path, err)
	if f.Kind == fault.Exhausted {
		return f.WithHint("free space on the device, or remove models it need not keep")
	}
	return f
}

func notHere(op string, d fleet.Digest) error {
	return fault.Newf(fault.NotFound, op, d.String(), "it is not in the store")
}

func faultKind(err error) fault.Kind {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EFBIG} {
		if errors.Is(err, full) {
			return fault.Exhausted
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.NotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.Denied
	}
	return fault.Internal
}
