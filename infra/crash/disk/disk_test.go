package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/modelfleet/modelfleet/infra/crash/disk"
	"github.com/modelfleet/modelfleet/infra/crash/trace"
	"github.com/modelfleet/modelfleet/pkg/cas"
)

// The programs whose crashes are looked at: each replaces the file "state", which
// holds 20000 times "a", by 20000 times "b".
var programs = map[string]func(path string, data []byte) error{
	"durable":  func(path string, data []byte) error { return cas.WriteFile(path, data, 0o644) },
	"in place": func(path string, data []byte) error { return os.WriteFile(path, data, 0o644) },
	"no sync": func(path string, data []byte) error {
		if err := os.WriteFile(path+".tmp", data, 0o644); err != nil {
			return err
		}
		return os.Rename(path+".tmp", path)
	},
	"synced after the rename": func(path string, data []byte) error {
		f, err := os.Create(path + ".tmp")
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, os.Rename(path+".tmp", path), f.Sync(), f.Close())
	},
	"removed first": func(path string, data []byte) error {
		if err := cas.WriteFile(path+".new", data, 0o644); err != nil {
			return err
		}
		return errors.Join(os.Remove(path), os.Rename(path+".new", path), cas.SyncDir(filepath.Dir(path)))
	},
}

const helper = "MODELFLEET_DISK_PROGRAM"

func TestMain(m *testing.M) {
	if name := os.Getenv(helper); name != "" {
		if err := programs[name](os.Args[1], slices.Repeat([]byte("b"), 20000)); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Only the protocol of pkg/cas survives every crash: whoever leaves out a sync, or
// the rename, is caught.
func TestTheModelCatchesEveryShortcut(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("SKIPPED: strace is not installed")
	}
	for name := range programs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			states, bad := crashes(t, name)
			t.Logf("%d states, %d neither old nor new", states, bad)
			if states < 5 || (bad > 0) == (name == "durable") {
				t.Errorf("%d of %d states are neither old nor new", bad, states)
			}
		})
	}
}

func crashes(t *testing.T, program string) (states, bad int) {
	t.Helper()
	dir := t.TempDir()
	before, root, log := filepath.Join(dir, "before"), filepath.Join(dir, "root"), filepath.Join(dir, "trace")
	for _, d := range []string{before, root} {
		err := os.Mkdir(d, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(d, "state"), slices.Repeat([]byte("a"), 20000), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	args := append(trace.Flags(log, trace.Syscalls), os.Args[0], filepath.Join(root, "state"))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), helper+"="+program)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: strace cannot trace here: %v: %s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	calls, err := trace.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	d, err := disk.Load(before, root, calls, 1)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[32]byte]bool{}
	old, now := string(slices.Repeat([]byte("a"), 20000)), string(slices.Repeat([]byte("b"), 20000))
	for d.Next() {
		for im := range d.Crashes(8) {
			if seen[im.Sum()] {
				continue
			}
			seen[im.Sum()] = true
			to := filepath.Join(dir, "after")
			if err := errors.Join(os.RemoveAll(to), im.Write(to)); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(to, "state"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			states++
			if s := string(got); s != old && s != now {
				bad++
			}
		}
	}
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	sameTree(t, d, root, filepath.Join(dir, "end"))
	return states, bad
}

// sameTree compares what the model came to with what lies on the real disk.
func sameTree(t *testing.T, d *disk.Disk, real, model string) {
	t.Helper()
	if err := d.Live().Write(model); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("diff", "-r", "--no-dereference", real, model).CombinedOutput(); err != nil {
		t.Errorf("the model came to another disk than the program: %v\n%s", err, out)
	}
}
