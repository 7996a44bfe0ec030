// Package site measures what a site costs its link: how often a release leaves
// the bucket, and how long it takes until the last member has it, when 1, 10 or
// 30 members of one site want it at once. A real coordinator and real agents, a
// process each, read a real S3 server through one link of 100 Mbit/s, whose bytes
// are counted; with neighbours, without them (-share off), and with a tenth of
// the members killed in the middle.
package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/process"
)

// run is what one rollout took.
type run struct{ seconds, bytes float64 }

// scene is one site, from its first member to the end.
type scene struct {
	members int
	sharing bool
	kill    int  // members killed in the middle
	updates bool // there is a second release; then the killing happens there
}

// result is what a scene gave; update is zero without one.
type result struct{ full, update run }

// Run measures and returns the figures.
func Run(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	bins := filepath.Join(o.Work, "bin")
	for _, pkg := range []string{"agent/cmd/modelfleet-agent", "coordinator/cmd/modelfleet-coordinator", "coordinator/cmd/modelfleet", "infra/devs3/cmd/devs3"} {
		if err := process.Build(ctx, o.Root, filepath.Join(bins, filepath.Base(pkg)), "./"+pkg); err != nil {
			return nil, err
		}
	}
	scenes, mib := []scene{
		{members: 1, sharing: true, updates: true},
		{members: 10, sharing: true, updates: true}, {members: 10, updates: true},
		{members: 30, sharing: true, updates: true}, {members: 30, updates: true},
		{members: 30, sharing: true, kill: 3}, {members: 30, sharing: true, kill: 3, updates: true},
	}, 128
	if o.Quick {
		scenes, mib = []scene{
			{members: 1, sharing: true, updates: true}, {members: 10, sharing: true, updates: true}, {members: 10, updates: true},
			{members: 10, sharing: true, kill: 1},
		}, 64
	}
	var figures []figure.Figure
	var one result
	for i, s := range scenes {
		got, err := s.play(ctx, bins, mib)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name(), err)
		}
		if i == 0 {
			one = got
		}
		o.Logf("%s: full %.1f s, %.1f MiB; update %.1f s, %.1f MiB", s.name(), got.full.seconds, got.full.bytes/(1<<20), got.update.seconds, got.update.bytes/(1<<20))
		figures = append(figures, s.figures(got, one, mib)...)
	}
	return figures, nil
}

func (s scene) name() string {
	name := fmt.Sprintf("site of %d", s.members)
	if !s.sharing {
		name += ", sharing off"
	}
	if s.kill > 0 {
		name += fmt.Sprintf(", %d killed midway", s.kill)
	}
	return name
}

// play brings a site up and measures it.
func (s scene) play(ctx context.Context, bins string, mib int) (res result, err error) {
	dir, err := os.MkdirTemp("", "mf-") // the path of a socket must be short
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(dir)
	w, err := newWorld(ctx, bins, dir, s.members, s.sharing)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	kill := s.kill
	if s.updates {
		kill = 0
	}
	if err := w.publish(ctx, "1.0.0", 1, mib); err != nil {
		return res, err
	}
	if res.full, err = w.rollOut(ctx, "1.0.0", kill); err != nil || !s.updates {
		return res, err
	}
	if err := w.publish(ctx, "2.0.0", 2, mib); err != nil {
		return res, err
	}
	res.update, err = w.rollOut(ctx, "2.0.0", s.kill)
	return res, err
}

// figures compare a scene with the site of one member, measured in the same run.
func (s scene) figures(got, one result, mib int) []figure.Figure {
	var fs []figure.Figure
	add := func(what string, got, one run) {
		name := fmt.Sprintf("%s, %s of %d MiB", s.name(), what, mib)
		last := figure.Figure{Name: name + ", last member has it", Value: got.seconds, Unit: "s"}
		if s.members > 1 {
			fs = append(fs, figure.Figure{Name: name + ", out of the bucket", Value: got.bytes / one.bytes, Unit: "copies"})
			last.Anchor, last.Ratio = "one member alone", got.seconds/one.seconds
		}
		fs = append(fs, last)
	}
	if s.kill == 0 || !s.updates {
		add("full install", got.full, one.full)
	}
	if s.updates {
		add("update", got.update, one.update)
	}
	return fs
}
