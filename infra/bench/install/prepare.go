package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/layout"
	"github.com/modelfleet/modelfleet/infra/bench/install/member"
	"github.com/modelfleet/modelfleet/infra/bench/netlimit"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/infra/bench/weights"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
)

// release is one version of the model, published.
type release struct {
	path  string // of its file
	man   oms.Manifest
	files []artifact.File
}

// prepare builds the programs, starts the server, publishes a base and its
// fine-tune, and installs the base.
func (b *bench) prepare(ctx context.Context) error {
	server := filepath.Join(b.o.Work, "devs3")
	b.fetch = filepath.Join(b.o.Work, "fetch")
	for out, pkg := range map[string]string{server: "./infra/devs3/cmd/devs3", b.fetch: "./infra/bench/install/cmd/fetch"} {
		if err := process.Build(ctx, b.o.Root, out, pkg); err != nil {
			return err
		}
	}
	var err error
	if b.s5, err = process.Foreign(ctx, "s5cmd", "github.com/peak/s5cmd/v2", s5cmdVersion); err != nil {
		b.o.Logf("SKIPPED: no ratio, s5cmd cannot be had: %v", err)
	}
	if b.server, err = devs3.Start(ctx, server, devs3.Options{Dir: filepath.Join(b.o.Work, "s3")}); err != nil {
		return err
	}
	if err := b.publish(ctx); err != nil {
		return err
	}
	direct, err := b.job(ctx, "base.json", b.server.Endpoint, b.base, false)
	if err != nil {
		return err
	}
	_, _, err = b.install(ctx, direct, "base")
	return err
}

// publish makes both versions and what of them lies in the bucket.
func (b *bench) publish(ctx context.Context) error {
	settings := weights.Standard()
	if b.o.Quick {
		settings = weights.Quick()
	}
	set, err := weights.Load(ctx, settings, b.o.Logf)
	if err != nil {
		return err
	}
	b.o.Logf("making and publishing two versions of a model of %d MiB", b.mib)
	store, err := b.open(ctx, b.server.Endpoint)
	if err != nil {
		return err
	}
	for name, r := range map[string]*release{weights.Base: &b.base, weights.Tune200: &b.next} {
		r.path = filepath.Join(b.o.Work, name, "model.safetensors")
		if err := weights.WriteTiledFile(r.path, set.Model(name), int64(b.mib)<<20); err != nil {
			return err
		}
		if r.man, err = oms.Hash(ctx, filepath.Dir(r.path), oms.Options{Method: oms.Shards}); err != nil {
			return err
		}
		if r.files, err = artifact.FilesOf(r.man); err != nil {
			return err
		}
		if _, err := artifact.Upload(ctx, store, filepath.Dir(r.path), r.files, artifact.UploadOptions{TempDir: b.o.Work}); err != nil {
			return err
		}
	}
	stats, err := b.delta(ctx, store)
	b.o.Logf("of %d MiB the smallest other object takes %.1f %%, the delta %.1f %% (kept: %t)", b.mib,
		100*float64(stats.Full)/float64(b.next.man.Size()), 100*float64(stats.Size)/float64(b.next.man.Size()), stats.Kept)
	return errors.Join(err, os.RemoveAll(filepath.Dir(b.base.path)), os.RemoveAll(filepath.Dir(b.next.path)))
}

func (b *bench) delta(ctx context.Context, store *s3.Store) (s artifact.DeltaStats, err error) {
	job := artifact.DeltaJob{File: b.next.files[0], Base: b.base.files[0]}
	next, err := os.Open(b.next.path)
	if err != nil {
		return s, err
	}
	defer next.Close()
	base, err := os.Open(b.base.path)
	if err != nil {
		return s, err
	}
	defer base.Close()
	tensors := func(f artifact.File, r *os.File) []layout.Tensor {
		return layout.Of([]layout.File{{Path: f.Path, Size: f.Size, Content: r}})[f.Path]
	}
	job.New, job.Old = next, base
	job.Regions = layout.Regions(tensors(job.File, next), tensors(job.Base, base), job.File.Size, job.Base.Size)
	return artifact.UploadDelta(ctx, store, job, artifact.DeltaOptions{TempDir: b.o.Work})
}

func (b *bench) open(ctx context.Context, endpoint string) (*s3.Store, error) {
	p := b.server
	return s3.Open(ctx, s3.Options{Bucket: p.Bucket, Endpoint: endpoint, Region: p.Region, AccessKey: p.AccessKey, SecretKey: p.SecretKey})
}

// job writes what the fetch program is told, with URLs by that endpoint.
func (b *bench) job(ctx context.Context, name, endpoint string, r release, low bool) (string, error) {
	store, err := b.open(ctx, endpoint)
	if err != nil {
		return "", err
	}
	job := member.Job{Key: fleet.Digest(r.man.Root), Base: fleet.Digest(b.base.man.Root), Manifest: r.man, Size: r.man.Size(),
		URLs: map[string]string{}, LowMemory: low}
	file, base := r.files[0].Digest, b.base.files[0].Digest
	for _, k := range []string{artifact.RawKey(file), artifact.FullKey(file), artifact.DeltaKey(file, base)} {
		for _, key := range []string{k, artifact.IndexKey(k)} {
			u, expires, err := store.Presign(ctx, key, 12*time.Hour)
			if err != nil {
				return "", err
			}
			job.URLs[key], job.Expires = u, expires
		}
	}
	data, err := json.Marshal(job)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.o.Work, name)
	return path, os.WriteFile(path, data, 0o644)
}

// connect opens a link to the server and writes the jobs that go over it.
func (b *bench) connect(ctx context.Context, l *link) (closed func() error, err error) {
	l.endpoint, closed = b.server.Endpoint, func() error { return nil }
	if l.mbit > 0 {
		limited, err := netlimit.New(b.server.Addr, netlimit.Options{Down: l.mbit * netlimit.Mbit})
		if err != nil {
			return nil, err
		}
		l.endpoint, closed = "http://"+limited.Addr(), limited.Close
	}
	for low, path := range map[bool]*string{false: &l.job, true: &l.jobLow} {
		if *path, err = b.job(ctx, fmt.Sprintf("job-%d-%t.json", l.mbit, low), l.endpoint, b.next, low); err != nil {
			return nil, errors.Join(err, closed())
		}
	}
	return closed, nil
}

// linkTree copies a store by hard links: its files never change.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Link(path, filepath.Join(to, rel))
	})
}
