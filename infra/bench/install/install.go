// Package install measures what installing a large model costs: verified,
// durable and whole, from S3 on loopback, against s5cmd copying the same bytes,
// which neither verifies nor syncs.
//
// Both run as processes of their own, one after the other, round by round, so
// that a busy machine is as unfair to the one as to the other. The installer
// reads by presigned URLs, as a device does.
package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
)

// s5cmdVersion is the anchor.
const s5cmdVersion = "v2.3.0"

// Job is what the fetch program is told: a release, and where its objects are.
type Job struct {
	Key       fleet.Digest
	Manifest  oms.Manifest
	Size      int64
	URLs      map[string]string
	Expires   time.Time
	LowMemory bool
}

// bench is one benchmark under way.
type bench struct {
	o           figure.Options
	server      *devs3.Process
	fetch, s5   string // programs; s5 is "" when it cannot be had
	job, jobLow string // paths of the job files
	raw         string // s3:// URL of the plain object
	mib         int
}

// Run measures and returns the figures. When s5cmd cannot be had it says so and
// gives our own values without a ratio.
func Run(ctx context.Context, o figure.Options) (figures []figure.Figure, err error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	b := &bench{o: o, mib: 1024}
	rounds := 7
	if o.Quick {
		b.mib, rounds = 256, 3
	}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.server.Stop()) }()
	var ours, low, anchor, equal []process.Run
	for i := range rounds {
		for _, m := range []struct {
			to  *[]process.Run
			one func() (process.Run, error)
		}{
			{&anchor, func() (process.Run, error) { return b.copyAnchor(ctx, false) }},
			{&ours, func() (process.Run, error) { return b.install(ctx, b.job) }},
			{&low, func() (process.Run, error) { return b.install(ctx, b.jobLow) }},
			{&equal, func() (process.Run, error) { return b.copyAnchor(ctx, true) }},
		} {
			if b.s5 == "" && (m.to == &anchor || m.to == &equal) {
				continue
			}
			r, err := m.one()
			if err != nil {
				return nil, err
			}
			*m.to = append(*m.to, r)
		}
		o.Logf("round %d of %d: install %.2f s", i+1, rounds, ours[i].Wall)
		if b.s5 != "" {
			o.Logf("  s5cmd %.2f s, s5cmd + sync + sha256sum %.2f s", anchor[i].Wall, equal[i].Wall)
		}
	}
	return b.figures(ours, low, anchor, equal), nil
}

func (b *bench) figures(ours, low, anchor, equal []process.Run) []figure.Figure {
	size := fmt.Sprintf("%dMiB", b.mib)
	name := "s5cmd " + s5cmdVersion + " cp"
	wall := func(r process.Run) float64 { return r.Wall }
	cpu := func(r process.Run) float64 { return r.CPU }
	rss := func(r process.Run) float64 { return r.RSS }
	return []figure.Figure{
		compare("install "+size+" wall", "s", ours, anchor, name, wall),
		compare("install "+size+" wall, equal guarantees", "s", ours, equal, name+" && sync -d && sha256sum", wall),
		compare("install "+size+" CPU", "s", ours, anchor, name, cpu),
		compare("install "+size+" peak RSS", "MiB", ours, anchor, name, rss),
		compare("install "+size+" low-memory wall", "s", low, anchor, name, wall),
		compare("install "+size+" low-memory peak RSS", "MiB", low, anchor, name, rss),
	}
}

// compare gives the median of ours and the median of the ratios of each round.
func compare(name, unit string, ours, anchor []process.Run, anchorName string, of func(process.Run) float64) figure.Figure {
	f := figure.Figure{Name: name, Unit: unit}
	var values, ratios []float64
	for i, r := range ours {
		values = append(values, of(r))
		if i < len(anchor) {
			ratios = append(ratios, of(r)/of(anchor[i]))
		}
	}
	f.Value = figure.Median(values)
	if len(ratios) > 0 {
		f.Anchor, f.Ratio = anchorName, figure.Median(ratios)
	}
	return f
}

// install runs the installer into an empty store.
func (b *bench) install(ctx context.Context, job string) (process.Run, error) {
	store := filepath.Join(b.o.Work, "store")
	if err := os.RemoveAll(store); err != nil {
		return process.Run{}, err
	}
	return measure(exec.CommandContext(ctx, b.fetch, job, store))
}

// copyAnchor runs s5cmd, and with equal does what it leaves undone.
func (b *bench) copyAnchor(ctx context.Context, equal bool) (process.Run, error) {
	out := filepath.Join(b.o.Work, "copy.bin")
	if err := os.RemoveAll(out); err != nil {
		return process.Run{}, err
	}
	script := `"$0" --log error --endpoint-url "$1" cp "$2" "$3"`
	if equal {
		script += ` && sync -d "$3" && sha256sum "$3" >/dev/null`
	} else {
		script = "exec " + script
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", script, b.s5, b.server.Endpoint, b.raw, out)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+b.server.AccessKey,
		"AWS_SECRET_ACCESS_KEY="+b.server.SecretKey, "AWS_REGION="+b.server.Region)
	return measure(cmd)
}

// measure runs a command when the disk has settled.
func measure(cmd *exec.Cmd) (process.Run, error) {
	syscall.Sync() // what the run before left in the page cache is not this one's to write
	r, _, err := process.Measure(cmd)
	return r, err
}

// prepare builds the programs, starts the server and publishes the model.
func (b *bench) prepare(ctx context.Context) error {
	if err := os.MkdirAll(b.o.Work, 0o755); err != nil {
		return err
	}
	work, err := filepath.Abs(b.o.Work)
	if err != nil {
		return err
	}
	b.o.Work = work
	server := filepath.Join(work, "devs3")
	b.fetch = filepath.Join(work, "fetch")
	for out, pkg := range map[string]string{server: "./infra/devs3/cmd/devs3", b.fetch: "./infra/bench/install/cmd/fetch"} {
		if err := process.Build(ctx, b.o.Root, out, pkg); err != nil {
			return err
		}
	}
	if b.s5, err = process.Foreign(ctx, "s5cmd", "github.com/peak/s5cmd/v2", s5cmdVersion); err != nil {
		b.o.Logf("SKIPPED: no ratio, s5cmd cannot be had: %v", err)
	}
	b.o.Logf("making and publishing a model of %d MiB", b.mib)
	model := filepath.Join(work, "model")
	if err := writeModel(model, b.mib); err != nil {
		return err
	}
	if b.server, err = devs3.Start(ctx, server, devs3.Options{Dir: filepath.Join(work, "s3")}); err != nil {
		return err
	}
	if err := b.publish(ctx, model); err != nil {
		return errors.Join(err, b.server.Stop())
	}
	return nil
}

func (b *bench) publish(ctx context.Context, model string) error {
	p := b.server
	store, err := s3.Open(ctx, s3.Options{Bucket: p.Bucket, Endpoint: p.Endpoint, Region: p.Region, AccessKey: p.AccessKey, SecretKey: p.SecretKey})
	if err != nil {
		return err
	}
	man, err := oms.Hash(ctx, model, oms.Options{Method: oms.Shards})
	if err != nil {
		return err
	}
	files, err := artifact.FilesOf(man)
	if err != nil {
		return err
	}
	if _, err := artifact.Upload(ctx, store, model, files, artifact.UploadOptions{TempDir: b.o.Work}); err != nil {
		return err
	}
	job := Job{Key: fleet.Digest(man.Root), Manifest: man, Size: man.Size(), URLs: map[string]string{}}
	for _, f := range files {
		for _, k := range []string{artifact.RawKey(f.Digest), artifact.FullKey(f.Digest)} {
			for _, key := range []string{k, artifact.IndexKey(k)} {
				u, expires, err := store.Presign(ctx, key, 12*time.Hour)
				if err != nil {
					return err
				}
				job.URLs[key], job.Expires = u, expires
			}
		}
	}
	b.raw = "s3://" + p.Bucket + "/" + artifact.RawKey(files[0].Digest)
	if b.job, err = b.writeJob("job.json", job); err != nil {
		return err
	}
	job.LowMemory = true
	b.jobLow, err = b.writeJob("job-low-memory.json", job)
	return err
}

func (b *bench) writeJob(name string, j Job) (string, error) {
	data, err := json.Marshal(j)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.o.Work, name)
	return path, os.WriteFile(path, data, 0o644)
}
