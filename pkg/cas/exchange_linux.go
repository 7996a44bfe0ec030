package cas

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// exchange swaps two folders of one file system in one step, durably.
func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(b)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(a))
}
