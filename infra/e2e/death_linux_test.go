package e2e_test

import "syscall"

// dieWithParent has the kernel kill a program when the test ends in any way.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
