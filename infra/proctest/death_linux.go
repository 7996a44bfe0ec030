package proctest

import "syscall"

// DieWithParent has the kernel kill a program when the thread that starts it ends,
// and so when we end in any way.
func DieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
