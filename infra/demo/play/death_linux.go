package play

import "syscall"

// dieWithParent has the kernel kill a child when the demo ends in any way.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
