//go:build !linux

package proctest

import "syscall"

// DieWithParent cannot be had here.
func DieWithParent(*syscall.SysProcAttr) {}
