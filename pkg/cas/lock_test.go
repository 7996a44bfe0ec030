package cas_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// holderOf is the variable that makes TestMain's process take a lock.
const holderOf = "CAS_TEST_HOLDER_OF"

// TestMain makes this binary a process that holds a lock until it is killed, too.
func TestMain(m *testing.M) {
	path := os.Getenv(holderOf)
	if path == "" {
		os.Exit(m.Run())
	}
	if _, err := cas.TakeLock(path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test at the latest
}

// A second process is refused by an error that names the first, and may have the
// lock once that was killed.
func TestALockNamesItsHolderAndEndsWithIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderOf+"="+path)
	in, err := cmd.StdinPipe()
	ok(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	said := make([]byte, 5)
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "held\n" {
		t.Fatalf("it said %q: %v", said, err)
	}
	want := fmt.Sprintf("%s (process %d) has it", filepath.Base(os.Args[0]), cmd.Process.Pid)
	if _, err := cas.TakeLock(path); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
		t.Errorf("taken by another process: %v; want it to say %q", err, want)
	}
	ok(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	l, err := cas.TakeLock(path)
	ok(t, err)
	ok(t, l.Release())
}

// Within a process a lock has one holder too, and another after it was given free.
func TestALockHasOneHolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	l, err := cas.TakeLock(path)
	ok(t, err)
	if _, err := cas.TakeLock(path); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("taken twice: %v", err)
	}
	if lies, err := l.Lies(path); err != nil || !lies {
		t.Errorf("it is not where it was taken: %v", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	waited := make(chan error)
	go func() {
		next, err := cas.WaitLock(f)
		if err == nil {
			err = next.Release()
		}
		waited <- err
	}()
	ok(t, l.Release())
	ok(t, <-waited)
}

// Another disk that is mounted over the lock is seen, and a disk that is away is
// said to be.
func TestALockThatAnotherFileLiesOver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	l, err := cas.TakeLock(path)
	ok(t, err)
	defer l.Release()
	ok(t, os.Rename(path, path+".was"))
	if _, err := l.Lies(path); !fault.Is(err, fault.NotFound) {
		t.Errorf("nothing lies there: %v", err)
	}
	ok(t, os.WriteFile(path, nil, 0o600))
	if lies, err := l.Lies(path); err != nil || lies {
		t.Errorf("another file is taken for it: %v", err)
	}
}

// A folder that is not there is an error that names the path.
func TestALockWithoutAFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none", "lock")
	if _, err := cas.TakeLock(path); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), path) {
		t.Errorf("a lock in no folder: %v", err)
	}
}
