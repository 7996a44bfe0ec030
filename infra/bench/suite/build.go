package suite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
)

// build makes a stripped static binary of a main package, as a release does,
// and returns its path.
func build(ctx context.Context, o figure.Options, dir, arch string) (string, error) {
	out := filepath.Join(o.Work, filepath.Base(dir)+"-"+arch)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", out, "./"+dir)
	cmd.Dir = o.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", dir, err, msg)
	}
	return out, nil
}

// sizes gives each binary's size and how many modules it links.
func sizes(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	archs := []string{"amd64", "arm64"}
	if o.Quick {
		archs = archs[:1]
	}
	var figures []figure.Figure
	for _, dir := range []string{"agent/cmd/modelfleet-agent", "coordinator/cmd/modelfleet-coordinator", "coordinator/cmd/modelfleet", "functions/scorer"} {
		name := filepath.Base(dir)
		for _, arch := range archs {
			bin, err := build(ctx, o, dir, arch)
			if err != nil {
				return nil, err
			}
			info, err := os.Stat(bin)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", dir, err)
			}
			figures = append(figures, figure.Figure{Name: name + " " + arch, Value: float64(info.Size()) / 1e6, Unit: "MB"})
		}
		record, err := os.ReadFile(filepath.Join(o.Root, "infra", "deps", name+".txt"))
		if err != nil {
			return nil, fmt.Errorf("read the record of linked modules: %w", err)
		}
		figures = append(figures, figure.Figure{Name: name + " linked modules", Value: float64(len(strings.Fields(string(record)))), Unit: "modules"})
	}
	return figures, nil
}
