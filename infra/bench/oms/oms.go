// Package oms measures what verifying a signed model costs: how fast its bytes
// are hashed next to openssl on the same bytes, in how much memory, what the
// bundle itself takes, and how large a program that does nothing else is.
//
// Ours and the anchor run as processes, one after the other, round by round. A
// model of 10 GiB, made of a sparse file, shows that memory does not grow with it.
package oms

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// bench is one benchmark under way.
type bench struct {
	o       figure.Options
	key     *ecdsa.PrivateKey
	pub     string // its public half, in a file
	verify  string // the program
	openssl string // "" when there is none
	mib     int
}

// parts is how many files the model has.
const parts = 8

// series is what one way to hash the model cost, round by round.
type series struct {
	name   string
	bundle string // ours; "" for the anchor
	cores  int
	runs   []process.Run
}

// Run measures and returns the figures. Without openssl it says so and gives no
// ratios.
func Run(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	b := &bench{o: o, mib: 2048}
	rounds := 5
	if o.Quick {
		b.mib, rounds = 256, 3
	}
	if o.Logf == nil {
		b.o.Logf = func(string, ...any) {}
	}
	model, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	files, err := b.sign(ctx, model, "files.sig", oms.Options{})
	if err != nil {
		return nil, err
	}
	shards, err := b.sign(ctx, model, "shards.sig", oms.Options{Method: oms.Shards})
	if err != nil {
		return nil, err
	}
	all := runtime.NumCPU()
	ways := []*series{
		{name: "openssl", cores: 1}, {name: "files, 1 worker", bundle: files, cores: 1}, {name: "shards, 1 worker", bundle: shards, cores: 1},
		{name: "openssl", cores: all}, {name: "files", bundle: files, cores: all}, {name: "shards", bundle: shards, cores: all},
	}
	for i := range rounds {
		for _, w := range ways {
			if err := b.one(ctx, w, model); err != nil {
				return nil, err
			}
		}
		b.o.Logf("round %d of %d: shards, 1 worker %.2f s", i+1, rounds, ways[2].runs[i].Wall)
	}
	figures := b.speeds(ways)
	memory, err := b.memory(ctx, ways)
	if err != nil {
		return nil, err
	}
	bundle, err := b.bundle(shards)
	if err != nil {
		return nil, err
	}
	sizes, err := b.sizes(ctx)
	return slices.Concat(figures, memory, bundle, sizes), err
}

// prepare builds the program and makes key and model.
func (b *bench) prepare(ctx context.Context) (model string, err error) {
	b.verify = filepath.Join(b.o.Work, "verify")
	if err := process.Build(ctx, b.o.Root, b.verify, "./infra/bench/oms/cmd/verify"); err != nil {
		return "", err
	}
	if b.openssl, err = exec.LookPath("openssl"); err != nil {
		b.o.Logf("SKIPPED: no ratios, there is no openssl: %v", err)
	}
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(b.key.Public())
	if err != nil {
		return "", err
	}
	b.pub = filepath.Join(b.o.Work, "key.pub")
	if err := os.WriteFile(b.pub, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
		return "", err
	}
	b.o.Logf("making a model of %d MiB", b.mib)
	model = filepath.Join(b.o.Work, "model")
	if err := os.MkdirAll(model, 0o755); err != nil {
		return "", err
	}
	for i := range parts {
		if err := fill(filepath.Join(model, fmt.Sprintf("part-%d.bin", i)), int64(b.mib)<<20/parts); err != nil {
			return "", err
		}
	}
	return model, nil
}

// fill writes a file of random bytes.
func fill(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// sign writes the model's bundle and returns its path.
func (b *bench) sign(ctx context.Context, model, name string, how oms.Options) (string, error) {
	m, err := oms.Hash(ctx, model, how)
	if err != nil {
		return "", err
	}
	raw, err := oms.Sign(m, b.key)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.o.Work, name)
	return path, os.WriteFile(path, raw, 0o644)
}

// one runs one way once more.
func (b *bench) one(ctx context.Context, w *series, model string) error {
	if w.bundle == "" && b.openssl == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, b.verify, "-key", b.pub, "-workers", strconv.Itoa(w.cores), w.bundle, model)
	if w.bundle == "" {
		cmd = exec.CommandContext(ctx, "sh", "-c", `printf '%s\n' "$1"/* | xargs -P "$2" -n "$3" "$0" dgst -sha256`,
			b.openssl, model, strconv.Itoa(w.cores), strconv.Itoa((parts+w.cores-1)/w.cores))
	} else {
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(w.cores))
	}
	r, _, err := process.Measure(cmd)
	w.runs = append(w.runs, r)
	return err
}

// speeds compares each of ours with the anchor of as many cores.
func (b *bench) speeds(ways []*series) []figure.Figure {
	gb := float64(b.mib) * (1 << 20) / 1e9
	var out []figure.Figure
	for _, w := range ways {
		if w.bundle == "" {
			continue
		}
		anchor := ways[slices.IndexFunc(ways, func(a *series) bool { return a.bundle == "" && a.cores == w.cores })]
		what := fmt.Sprintf("verify %dMiB in %s", b.mib, w.name)
		speed, cpu := figure.Figure{Name: what, Unit: "GB/s"}, figure.Figure{Name: what + ", CPU", Unit: "s/GB"}
		var speeds, cpus, speedRatios, cpuRatios []float64
		for i, r := range w.runs {
			speeds, cpus = append(speeds, gb/r.Wall), append(cpus, r.CPU/gb)
			if i < len(anchor.runs) {
				speedRatios = append(speedRatios, anchor.runs[i].Wall/r.Wall)
				cpuRatios = append(cpuRatios, r.CPU/anchor.runs[i].CPU)
			}
		}
		speed.Value, cpu.Value = figure.Median(speeds), figure.Median(cpus)
		if len(speedRatios) > 0 {
			name := fmt.Sprintf("openssl dgst -sha256, %d at once", anchor.cores)
			speed.Anchor, speed.Ratio, cpu.Anchor, cpu.Ratio = name, figure.Median(speedRatios), name, figure.Median(cpuRatios)
		}
		out = append(out, speed, cpu)
	}
	return out
}

// memory is the most that any round took, and what a model of 10 GiB takes.
func (b *bench) memory(ctx context.Context, ways []*series) ([]figure.Figure, error) {
	var out []figure.Figure
	peak := func(name string, runs []process.Run) {
		most := slices.MaxFunc(runs, func(a, b process.Run) int { return cmp.Compare(a.RSS, b.RSS) })
		out = append(out, figure.Figure{Name: name + ", peak RSS", Value: most.RSS, Unit: "MiB"})
	}
	for _, w := range ways[4:] {
		peak(fmt.Sprintf("verify %dMiB in %s", b.mib, w.name), w.runs)
	}
	if b.o.Quick {
		return out, nil
	}
	large := filepath.Join(b.o.Work, "large")
	if err := os.MkdirAll(large, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(large, "weights.bin"))
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(f.Truncate(10<<30), f.Close()); err != nil {
		return nil, err
	}
	bundle, err := b.sign(ctx, large, "large.sig", oms.Options{Method: oms.Shards})
	if err != nil {
		return nil, err
	}
	w := &series{bundle: bundle, cores: runtime.NumCPU()}
	if err := b.one(ctx, w, large); err != nil {
		return nil, err
	}
	peak("verify 10GiB in shards", w.runs)
	return out, nil
}

// bundle is what verifying a bundle alone takes.
func (b *bench) bundle(path string) ([]figure.Figure, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var m oms.Manifest
	result := testing.Benchmark(func(t *testing.B) {
		for t.Loop() {
			var parsed *oms.Bundle
			if parsed, err = oms.Parse(raw); err == nil {
				m, err = parsed.VerifyKey(&b.key.PublicKey)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("verify a bundle of %d shards", len(m.Resources))
	return []figure.Figure{
		{Name: name, Value: float64(result.NsPerOp()), Unit: "ns"},
		{Name: name + ", allocs", Value: float64(result.AllocsPerOp()), Unit: "allocs"},
	}, nil
}

// sizes is how large the program is as it would be released.
func (b *bench) sizes(ctx context.Context) ([]figure.Figure, error) {
	var out []figure.Figure
	for _, arch := range []string{"amd64", "arm64"} {
		bin := filepath.Join(b.o.Work, "verify-"+arch)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", bin, "./infra/bench/oms/cmd/verify")
		cmd.Dir = b.o.Root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the verifier: %w: %s", err, msg)
		}
		info, err := os.Stat(bin)
		if err != nil {
			return nil, err
		}
		out = append(out, figure.Figure{Name: "verifier " + arch, Value: float64(info.Size()) / 1e6, Unit: "MB"})
	}
	return out, nil
}
