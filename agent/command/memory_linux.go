package command

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

// madvPageout is MADV_PAGEOUT, Linux 5.4: reclaim these pages now.
const madvPageout = 21

// trim gives back what only starting up needed: garbage, and the pages of the
// program itself that were read for it. They are clean, so the kernel drops them
// and reads again the few that are used from then on. On a device that is idle
// most of its life that is more than half of what the agent weighs.
func trim(log *slog.Logger) {
	debug.FreeOSMemory()
	exe, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if !strings.HasSuffix(lines.Text(), exe) {
			continue
		}
		var from, to uintptr
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); n != 3 || !strings.HasPrefix(mode, "r-") {
			continue // data that was written stays
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, madvPageout); errno != 0 {
			log.Debug("program pages not given back", "err", errno)
			return
		}
	}
}
