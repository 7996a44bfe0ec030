//go:build !linux

package command

import (
	"log/slog"
	"runtime/debug"
)

// trim gives back the garbage of starting up.
func trim(*slog.Logger) { debug.FreeOSMemory() }
