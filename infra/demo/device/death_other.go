//go:build !linux

package device

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}
