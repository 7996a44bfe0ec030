package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// An application that only uses the link, takes no lease and has a model mapped, goes
// on with valid bytes while the device updates past it and collects the release.
func TestAMappedModelStaysValidThroughUpdatesAndCollection(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	text := func(s string) string { return strings.Repeat(s+" ", 4096) }
	releases := map[string]fleet.Release{}
	for i, s := range []string{"one", "two", "six"} {
		releases[s] = d.fleet.Publish(fleet.Version([]string{"1.0.0", "2.0.0", "3.0.0"}[i]), weights(text(s)))
	}
	v1 := releases["one"]
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	path := filepath.Join(d.o.State, "models", string(agenttest.Model), "current", "weights.bin")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, len(text("one")), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"two", "six"} {
		r := releases[s]
		d.fleet.Direct(&r, nil, 0)
		d.serves(r, fleet.Healthy)
	}
	for deadline := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
		if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first release was never collected")
		}
	}
	if string(mem) != text("one") {
		t.Error("the mapped bytes changed")
	}
	if got := d.content(); got != text("six") {
		t.Errorf("current holds %.20q", got)
	}
}
