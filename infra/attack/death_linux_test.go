package attack_test

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill a program when the tests end in any way.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
