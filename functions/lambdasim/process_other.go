//go:build unix && !linux

package lambdasim

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}

// waitStopped cannot be asked for here; the signal's own speed has to do.
func (p *process) waitStopped() {}
