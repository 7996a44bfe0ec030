package command_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
)

// With -low-memory the whole agent, not only its fetcher, stays under 32 MiB
// while it installs more than that.
func TestLowMemoryBoundsTheWholeAgent(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the agent")
	}
	dir, err := os.MkdirTemp("", "mf") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin, socket := filepath.Join(dir, "agent"), filepath.Join(dir, "a.sock")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/modelfleet-agent").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	weights := make([]byte, 54<<20)
	rand.NewChaCha8([32]byte{1}).Read(weights)
	for i := 0; i < len(weights); i += 2 {
		weights[i] &= 15 // so that packing pays
	}
	f := agenttest.New(t)
	rel := f.Publish("1.0.0", map[string]string{"weights.bin": string(weights)})
	f.Direct(&rel, nil, 0)
	c := f.Serve()
	cmd := exec.CommandContext(t.Context(), bin, "-state", filepath.Join(dir, "state"), "-join", c.Token(nil), "-id", "dev-1",
		"-socket", socket, "-source", f.Bucket, "-soak", "50ms", "-low-memory")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var out string
	for deadline := time.Now().Add(3 * time.Minute); !strings.Contains(out, "healthy"); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("status never said healthy: %s", out)
		}
		_, out, _ = run(t, "status", "-socket", socket)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var peak int
	if _, err := fmt.Sscan(rest, &peak); err != nil {
		t.Fatal(err)
	}
	t.Logf("peak %.1f MiB", float64(peak)/1024)
	if peak > 32<<10 {
		t.Errorf("the agent peaked at %.1f MiB, more than 32", float64(peak)/1024)
	}
}
