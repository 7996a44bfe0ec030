package powercut_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/infra/crash/powercut"
	"github.com/modelfleet/modelfleet/pkg/cas"
)

// Of a file that is written and renamed without a sync a power cut leaves something
// else, of one that pkg/cas wrote it never does: the rig cuts what is not synced.
func TestCutsTakeWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	if err := powercut.Lacking("ext4"); err != nil {
		t.Skipf("SKIPPED: power cannot be cut here: %v", err)
	}
	rig, err := powercut.New(t.Context(), powercut.Options{Dir: t.TempDir(), FS: "ext4", MiB: 64})
	if err != nil {
		t.Skipf("SKIPPED: power cannot be cut here: %v", err)
	}
	defer func() {
		if err := rig.Close(); err != nil {
			t.Error(err)
		}
	}()
	content := func(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%07d\n", n), 1<<17) }
	naive, ours := filepath.Join(rig.Root, "naive"), filepath.Join(rig.Root, "ours")
	stale := 0
	for n := range 3 {
		if err := os.WriteFile(naive+".tmp", content(n), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(naive+".tmp", naive); err != nil {
			t.Fatal(err)
		}
		if err := cas.WriteFile(ours, content(n), 0o644); err != nil {
			t.Fatal(err)
		}
		// What is not synced now would be in a few seconds.
		<-time.After(time.Millisecond)
		if err := os.WriteFile(naive, content(n+100), 0o644); err != nil {
			t.Fatal(err)
		}
		cut, err := rig.Cut(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = cut.Mount(t.Context(), func(root string) error {
			got, err := os.ReadFile(filepath.Join(root, "ours"))
			if err != nil || !bytes.Equal(got, content(n)) {
				t.Errorf("cut %d: what was synced is not there: %v", n, err)
			}
			got, err = os.ReadFile(filepath.Join(root, "naive"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if !bytes.Equal(got, content(n+100)) {
				stale++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if stale == 0 {
		t.Error("what was not synced is there after each cut: nothing was cut")
	}
}
