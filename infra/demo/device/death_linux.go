package device

import "syscall"

// dieWithParent has the kernel kill the program when its supervisor ends in any way.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
