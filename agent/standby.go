package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/standby"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// openStandby makes the way to packs that outlives the coordinator; nil for a
// device with a source of its own, which is one.
func (a *agent) openStandby(d *disk) error {
	if a.o.Source != "" {
		return nil
	}
	id := a.me.Identity()
	s, err := standby.Open(standby.Options{
		Path: d.path("pack-url.json"), Root: id.RootPin, Key: id.Facts.Group.PackKey(), Ask: a.uplink.PackURL,
		Now: a.o.Clock, Write: d.write, Logger: a.o.Logger,
	})
	if err != nil {
		return err
	}
	a.standby, a.loop.standby = s, s.View
	return nil
}

// keepStandby has a URL at hand until ctx ends: it is asked for when the
// coordinator was just heard.
func (a *agent) keepStandby(ctx context.Context) {
	if a.standby == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.heard:
			a.standby.Heard(ctx)
		}
	}
}

// bucketPack reads the group's pack out of the bucket.
func (a *agent) bucketPack(ctx context.Context, tag string) (pack []byte, etag string, err error) {
	key := a.me.Identity().Facts.Group.PackKey()
	if a.standby == nil {
		return a.bucket.Get(ctx, key, tag)
	}
	if pack, etag, err = a.standby.Get(ctx, tag); err == nil || errors.Is(err, registry.ErrNotModified) {
		return pack, etag, err
	}
	if fresh, tag, err := a.bucket.Get(ctx, key, tag); err == nil || errors.Is(err, registry.ErrNotModified) {
		return fresh, tag, err // the coordinator gave a URL for now
	}
	return nil, "", err
}

// awayLooks is how many reports' time lies between two looks into the bucket while
// the coordinator is away.
const awayLooks = 5

// watchBucket looks into the bucket as long as the coordinator cannot be asked for
// packs, until ctx ends: the heartbeat goes on publishing there, and others may.
func (a *agent) watchBucket(ctx context.Context) {
	every := awayLooks * min(a.o.Report, time.Minute)
	believed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.away:
		}
		pack, tag, err := a.bucketPack(ctx, believed)
		switch {
		case errors.Is(err, registry.ErrNotModified):
		case err != nil:
			a.o.Logger.Debug("no pack from there", "from", "bucket", "kind", fault.KindOf(err).String(), "err", err)
		default:
			// A refusal is logged and reported by the loop.
			if _, err := a.loop.offerPack(ctx, pack, "bucket"); err == nil {
				believed = tag
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every + rand.N(every/4+1)):
		}
	}
}

// packURL is how the way stands, for who asks this device; nil: it has none.
func (l *loop) packURL() *local.PackURL {
	if l.standby == nil {
		return nil
	}
	v := l.standby()
	return &local.PackURL{Until: v.Until, Trouble: v.Trouble}
}
