//go:build !linux

package cas

import "os"

// exchange swaps two folders. Elsewhere than on Linux there is a moment in
// which b is missing.
func exchange(a, b string) error {
	aside := a + ".aside"
	if err := os.Rename(b, aside); err != nil {
		return err
	}
	if err := Publish(a, b); err != nil {
		return err
	}
	return os.Rename(aside, a)
}
