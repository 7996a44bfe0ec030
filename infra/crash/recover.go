package crash

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync/atomic"

	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// Recovery is what a start made of a disk.
type Recovery struct {
	Verified int64 // bytes of the release that were here already, verified again
	Fetched  int64 // bytes of frames read from the bucket
}

// Recover does with a state folder what an agent's start does: it opens store
// and slots, installs the release and switches to it. Then the new release must
// be served. It is quicker than an agent, so that thousands of disks can be tried.
func (w *World) Recover(ctx context.Context, state string, r Release) (rec Recovery, err error) {
	store, err := cas.Open(filepath.Join(state, "store"))
	if err != nil {
		return rec, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	slots, err := slot.Open(slot.Options{Dir: filepath.Join(state, "models")})
	if err != nil {
		return rec, err
	}
	bucket, err := dir.Open(w.Bucket)
	if err != nil {
		return rec, err
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	source := &counting{Source: bucket}
	fetcher, err := delivery.New(delivery.Options{Store: store, Source: source, Reserve: 1 << 20, Memory: 8 * max(w.Shard, 4<<20)})
	if err != nil {
		return rec, err
	}
	got, err := fetcher.Install(ctx, delivery.Want{Key: r.Key, Manifest: r.Manifest, Size: r.Size}, nil)
	if err != nil {
		return rec, err
	}
	if err := slots.Switch(Model, got.Dir); err != nil {
		return rec, err
	}
	rec.Fetched = source.bytes.Load()
	rec.Verified = r.Size - rec.Fetched
	return rec, nil
}

// counting counts what is read of files.
type counting struct {
	delivery.Source
	bytes atomic.Int64
}

func (c *counting) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := c.Source.Range(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return &counted{body, c}, nil
}

type counted struct {
	io.ReadCloser
	c *counting
}

func (b *counted) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.c.bytes.Add(int64(n))
	return n, err
}
