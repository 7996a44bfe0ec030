package lambdasim

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel kill the child when the simulator ends in any way.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// waitStopped returns when the child has stopped or ended. It reaps nothing.
func (p *process) waitStopped() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return // stopped, or ECHILD: it ended
		}
	}
}
