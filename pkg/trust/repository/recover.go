package repository

import (
	"context"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// A snapshot by keys that root has taken out is where a change of keys left the
// fleet, or what a thief of the old keys made of it: it may name versions that do not
// exist, that are old, or that have no successor. Nothing of it is gone on from.

// vouched reports whether the newest root stands for the snapshot; there is one.
func (r *Repository) vouched() bool {
	return r.root.VerifyDelegate(metadata.SNAPSHOT, r.current.snapshotMeta) == nil
}

// seen is the version of a role that the caller saw before; 0 when it does not know,
// or when what it saw has no successor.
func (r *Repository) seen(role string) int64 {
	if v := r.opts.Seen[role]; v < maxVersion {
		return v
	}
	return 0
}

// recover replaces a snapshot that root does not stand for by what the caller saw
// before, or else by the newest version of each role that its own keys signed. It is
// signed with the next publication, after every version that lies in the bucket.
func (r *Repository) recover(ctx context.Context) error {
	if r.current.snapshotMeta == nil || r.opts.heartbeat() || r.vouched() {
		return nil
	}
	m := metadata.Snapshot(r.current.snapshotMeta.Signed.Expires)
	m.Signed.Version = r.seen(metadata.SNAPSHOT)
	m.Signed.Meta["targets.json"] = metaFile(r.policy.meta.Signed.Version, r.policy.raw)
	for _, d := range r.policy.meta.Signed.Delegations.Roles {
		version, raw, err := r.before(ctx, d.Name)
		if err != nil {
			return err
		}
		if version > 0 {
			m.Signed.Meta[d.Name+".json"] = metaFile(version, raw)
		}
	}
	r.current.snapshot, r.current.snapshotMeta, r.dirty = nil, m, true
	return nil
}

// before is where a role stood: as the caller saw it, or its newest version that its
// keys signed. Version 0 is none.
func (r *Repository) before(ctx context.Context, role string) (version int64, raw []byte, err error) {
	if v := r.seen(role); v > 0 {
		raw, err := r.fetch(ctx, trust.MetadataKey(role, v))
		if !fault.Is(err, fault.NotFound) {
			return v, raw, err
		}
	}
	err = r.probe(ctx, role, 1, func(c candidate) {
		if c.err == nil {
			version, raw = c.version, c.raw
		}
	})
	return version, raw, err
}
