package scrub

import (
	"log/slog"
	"runtime"

	"golang.org/x/sys/unix"
)

// What ioprio_set(2) calls this thread, and the class of those who read when
// nobody else does.
const (
	whoThread  = 1
	classIdle  = 3
	classShift = 13
)

// yield lets everybody else read first, where the I/O scheduler knows of
// priorities. The goroutine keeps its thread, which ends with it.
func yield(log *slog.Logger) {
	runtime.LockOSThread()
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoThread, 0, classIdle<<classShift); errno != 0 {
		log.Debug("scrub reads at ordinary priority", "err", errno)
	}
}
