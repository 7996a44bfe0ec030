// Package process builds and measures programs for the benchmarks: ours and the
// anchors they are compared with, each as a process of its own.
package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Run is what a process cost.
type Run struct{ Wall, CPU, RSS float64 } // seconds, seconds of all cores, MiB at its peak

// Measure runs a command to its end. Its standard output is kept when cmd has
// no Stdout of its own; both streams are quoted when it fails.
func Measure(cmd *exec.Cmd) (r Run, out []byte, err error) {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return r, nil, fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
	}
	ended, peak := make(chan struct{}), make(chan float64)
	go func() { peak <- watch(cmd.Process.Pid, ended) }()
	err = cmd.Wait()
	r.Wall = time.Since(start).Seconds()
	close(ended)
	r.RSS = <-peak
	if err != nil {
		return r, nil, fmt.Errorf("run %s: %w: %s%s", filepath.Base(cmd.Path), err, stderr.Bytes(), stdout.Bytes())
	}
	r.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return r, stdout.Bytes(), nil
}

// watch is the greatest resident size, in MiB, that the kernel recorded for a
// process, looked up until it ends. (The rusage of a child begins with its
// parent's size, and so says nothing about a small child of a large parent.)
func watch(pid int, ended <-chan struct{}) float64 {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var peak float64
	for {
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it ended between the tick and now
		}
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		var kib float64
		if n, _ := fmt.Sscan(rest, &kib); n == 1 {
			peak = max(peak, kib/1024)
		}
	}
}

// Build compiles a main package of the repository.
func Build(ctx context.Context, root, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Dir = root
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, msg)
	}
	return nil
}

// Foreign finds a program of another module, or builds it once into the user's
// cache, in a module of its own: nothing of it becomes part of ours. The name is
// the module's last element, such as s5cmd for github.com/peak/s5cmd/v2.
func Foreign(ctx context.Context, name, module, version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "modelfleet", name+"-"+version)
	exe := filepath.Join(dir, name)
	if _, err := os.Stat(exe); err == nil {
		return exe, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	mod := "module anchor\n\ngo 1.26.0\n\nrequire " + module + " " + version + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", exe, module)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build it: %w: %s", err, msg)
	}
	return exe, nil
}
