// Package publish measures what `modelfleet publish` takes for a large release:
// hashing, signing, packing, and sending every file plain and packed to an S3
// server on loopback, against zstd and s5cmd doing as much of it as they can: the
// same files packed at the fastest level and sent in both forms, with nothing
// hashed, signed or looked up. A second run, with nothing left to send, shows what
// finding that out takes.
//
// Both are processes of their own, one after the other, round by round, each to an
// empty bucket.
package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/infra/bench/weights"
	"github.com/modelfleet/modelfleet/infra/devs3"
)

const (
	s5cmdVersion = "v2.3.0"
	anchor       = "zstd -1 -T0, s5cmd " + s5cmdVersion + " cp"
	// pack and send is what both do: every file plain and packed.
	packAndSend = `mkdir "$1/packed" &&
for f in "$1"/model/*; do zstd -q -1 -T0 "$f" -o "$1/packed/${f##*/}.zst" || exit 1; done &&
"$0" --log error --endpoint-url "$2" cp "$1/model/" "s3://$3/anchor/raw/" &&
"$0" --log error --endpoint-url "$2" cp "$1/packed/" "s3://$3/anchor/full/" &&
rm -r "$1/packed"`
)

// bench is one benchmark under way.
type bench struct {
	o                      figure.Options
	modelfleet, server, s5 string // programs; s5 is "" when there is no anchor
}

// series is what each way took, round by round.
type series struct{ ours, again, anchor []process.Run }

// Run measures and returns the figures. Without zstd or s5cmd it says so and gives
// no ratios.
func Run(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	mib, rounds, settings := 1024, 5, weights.Standard()
	if o.Quick {
		mib, rounds, settings = 256, 3, weights.Quick()
	}
	b := &bench{o: o}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	set, err := weights.Load(ctx, settings, o.Logf)
	if err != nil {
		return nil, err
	}
	for i, m := range []weights.Model{set.Model(weights.Base), set.Model(weights.Tune200)} {
		if err := weights.WriteTiledFile(filepath.Join(o.Work, "model", fmt.Sprintf("model-%d-of-2.safetensors", i+1)), m, int64(mib)<<20/2); err != nil {
			return nil, err
		}
	}
	var s series
	for i := range rounds {
		if err := b.round(ctx, &s); err != nil {
			return nil, err
		}
		o.Logf("round %d of %d: %.2f s, CPU %.2f s", i+1, rounds, s.ours[i].Wall, s.ours[i].CPU)
	}
	name := fmt.Sprintf("publish %d MiB", mib)
	wall := func(r process.Run) float64 { return r.Wall }
	cpu := func(r process.Run) float64 { return r.CPU }
	return []figure.Figure{
		process.Compare(name+": wall", s.ours, s.anchor, anchor, wall), process.Compare(name+": CPU", s.ours, s.anchor, anchor, cpu),
		process.Peak(name+": peak RSS", s.ours),
		process.Compare(name+" again: wall", s.again, nil, "", wall), process.Compare(name+" again: CPU", s.again, nil, "", cpu),
	}, nil
}

// build makes or finds the programs.
func (b *bench) build(ctx context.Context) (err error) {
	b.modelfleet, b.server = filepath.Join(b.o.Work, "modelfleet"), filepath.Join(b.o.Work, "devs3")
	for out, pkg := range map[string]string{b.modelfleet: "./coordinator/cmd/modelfleet", b.server: "./infra/devs3/cmd/devs3"} {
		if err := process.Build(ctx, b.o.Root, out, pkg); err != nil {
			return err
		}
	}
	if _, err = exec.LookPath("zstd"); err == nil {
		b.s5, err = process.Foreign(ctx, "s5cmd", "github.com/peak/s5cmd/v2", s5cmdVersion)
	}
	if err != nil {
		b.o.Logf("SKIPPED: no ratios, the anchor cannot be had: %v", err)
	}
	return nil
}

// round publishes once by each way.
func (b *bench) round(ctx context.Context, s *series) (err error) {
	model, home := filepath.Join(b.o.Work, "model"), filepath.Join(b.o.Work, "fleet")
	return errors.Join(b.serve(ctx, func(p *devs3.Process) error {
		if b.s5 == "" {
			return nil
		}
		return b.run(p, &s.anchor, exec.CommandContext(ctx, "sh", "-c", packAndSend, b.s5, b.o.Work, p.Endpoint, p.Bucket))
	}), b.serve(ctx, func(p *devs3.Process) error {
		defer os.RemoveAll(home)
		var none []process.Run
		if err := b.run(p, &none, exec.CommandContext(ctx, b.modelfleet, "init", "--dir", home, "--name", "bench", "--team", "vision",
			"--bucket", p.Bucket, "--region", p.Region, "--s3-endpoint", p.Endpoint)); err != nil {
			return err
		}
		for _, to := range []*[]process.Run{&s.ours, &s.again} {
			if err := b.run(p, to, exec.CommandContext(ctx, b.modelfleet, "publish", model, "bench@1", "--dir", home, "--no-admit", "--no-delta")); err != nil {
				return err
			}
		}
		return nil
	}))
}

// serve lets do use an S3 server with an empty bucket.
func (b *bench) serve(ctx context.Context, do func(*devs3.Process) error) error {
	dir := filepath.Join(b.o.Work, "s3")
	p, err := devs3.Start(ctx, b.server, devs3.Options{Dir: dir})
	if err != nil {
		return err
	}
	return errors.Join(do(p), p.Stop(), os.RemoveAll(dir))
}

// run measures a command that uses the bucket.
func (b *bench) run(p *devs3.Process, to *[]process.Run, cmd *exec.Cmd) error {
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+p.AccessKey, "AWS_SECRET_ACCESS_KEY="+p.SecretKey, "AWS_REGION="+p.Region)
	syscall.Sync() // what was written before is not this one's to wait for
	r, _, err := process.Measure(cmd)
	*to = append(*to, r)
	return err
}
