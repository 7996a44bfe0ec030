package repository

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// The timestamp role may have several keys, and two parties may sign for it at
// the same time: the coordinator, and the heartbeat that keeps a fleet fresh
// while the coordinator is down. Both only ever raise the version, both put what
// they signed into the bucket by compare and swap, and who loses takes up what
// the other signed with [Repository.Follow].

// heartbeat reports whether this repository signs timestamps and nothing else.
func (o Options) heartbeat() bool { return o.Coordinator == nil && o.Timestamp != nil }

// looksAhead reports whether snapshots count to which no timestamp leads yet.
func (o Options) looksAhead() bool { return o.heartbeat() || o.StampedElsewhere }

const stampOp = "sign timestamp"

// Stamp says anew that the newest snapshot in the bucket is the newest: it signs
// the next timestamp when the snapshot has none, or when the timestamp has lived
// two fifths of its life, and makes every group's pack. The writes are the
// timestamp, if one was signed, and the packs. It needs no key but the
// timestamp's. signed is false when only the packs may be missing.
//
// A timestamp is never valid for longer than what it speaks of: once snapshot or
// fleet role expire, only their own keys can make the fleet fresh again.
func (r *Repository) Stamp(now time.Time) (pub Publication, signed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.current
	if next.snapshotMeta == nil || next.fleetMeta == nil {
		return Publication{}, false, fault.Newf(fault.NotFound, stampOp, "snapshot", "the coordinator has signed none that can be used yet").
			WithHint("start the coordinator; if it runs, let it publish anew after a change of its keys")
	}
	if err := r.root.VerifyDelegate(metadata.SNAPSHOT, next.snapshotMeta); err != nil {
		return Publication{}, false, trust.Violated(trust.RuleSnapshot, stampOp, "snapshot", fmt.Errorf("root %d gives the role to other keys: %w", r.root.Signed.Version, err)).
			WithHint("start the coordinator with the key that root names: it signs the snapshot anew")
	}
	until, role := next.snapshotMeta.Signed.Expires, metadata.SNAPSHOT
	if e := next.fleetMeta.Signed.Expires; e.Before(until) {
		until, role = e, trust.RoleFleet
	}
	if !until.After(now) {
		return Publication{}, false, trust.Violated(trust.RuleExpired, stampOp, role, fmt.Errorf("it expired at %s", until.Format(time.RFC3339))).
			WithHint("a heartbeat bridges an outage of the coordinator for as long as what it signed is valid: start the coordinator")
	}
	pub = Publication{Packs: map[fleet.Group][]byte{}}
	life, due := r.opts.Lifetimes.Timestamp, true
	if next.stamped() && r.root.VerifyDelegate(metadata.TIMESTAMP, next.timestampMeta) == nil {
		expires := next.timestampMeta.Signed.Expires
		due = expires.Sub(now) < life*3/5 && expires.Before(until) // else nothing is gained
	}
	if due {
		write, err := r.signTimestamp(&next, now, until)
		if err != nil {
			return Publication{}, false, err
		}
		pub.Writes, signed = append(pub.Writes, write), true
	}
	if err := r.packAll(&pub, next, now); err != nil {
		return Publication{}, false, err
	}
	r.current = next
	return pub, signed, nil
}

// Follow takes up a timestamp that somebody else signed: raw is what lies in the
// bucket where this repository wanted to put its own, or what a look found there.
//
//   - It is over this repository's snapshot: it stands, and only the packs may be
//     missing.
//   - It is over an older snapshot, which its signer took for the newest, or past
//     its expiry: the timestamp is signed anew above it, by who has a key for that.
//   - It is over a snapshot that is not this repository's: a Conflict. Open the
//     repository again.
func (r *Repository) Follow(raw []byte, now time.Time) (Publication, error) {
	m, err := trust.Decode[metadata.TimestampType](raw)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		err = r.root.VerifyDelegate(metadata.TIMESTAMP, m)
	}
	if err != nil {
		return Publication{}, trust.Violated(trust.RuleTimestamp, "follow timestamp", "", err)
	}
	next := r.current
	next.timestamp, next.timestampMeta = bytes.Clone(raw), m
	pub := Publication{Packs: map[fleet.Group][]byte{}}
	switch info := m.Signed.Meta["snapshot.json"]; {
	case info == nil || next.snapshotMeta == nil || info.Version > next.snapshotMeta.Signed.Version,
		info.Version == next.snapshotMeta.Signed.Version && !next.stamped():
		return Publication{}, fault.Newf(fault.Conflict, "follow timestamp", "", "version %d leads to a snapshot that was not signed here", m.Signed.Version).
			WithHint("only one coordinator may decide for a fleet")
	case info.Version < next.snapshotMeta.Signed.Version, !m.Signed.Expires.After(now) && r.opts.Timestamp != nil:
		if r.opts.Timestamp == nil {
			return Publication{}, fault.Newf(fault.NotFound, "follow timestamp", "", "version %d is not over snapshot %d yet", m.Signed.Version, next.snapshotMeta.Signed.Version)
		}
		write, err := r.signTimestamp(&next, now, time.Time{})
		if err != nil {
			return Publication{}, err
		}
		pub.Writes = append(pub.Writes, write)
	}
	if err := r.packAll(&pub, next, now); err != nil {
		return Publication{}, err
	}
	r.current = next
	return pub, nil
}

// packAll adds every group's pack to a publication.
func (r *Repository) packAll(pub *Publication, next signed, now time.Time) error {
	pub.Issued, pub.Expires = issuedOf(next.timestampMeta), next.timestampMeta.Signed.Expires
	for _, g := range slices.Sorted(maps.Keys(next.directives)) {
		if err := r.addPack(pub, next, g, now); err != nil {
			return err
		}
	}
	return nil
}

// stamped reports whether the timestamp leads to the snapshot.
func (c signed) stamped() bool {
	if c.timestampMeta == nil || c.snapshotMeta == nil || len(c.snapshot) == 0 {
		return false
	}
	info := c.timestampMeta.Signed.Meta["snapshot.json"]
	return info != nil && info.Version == c.snapshotMeta.Signed.Version && info.VerifyLengthHashes(c.snapshot) == nil
}

// Stamped reports whether a timestamp leads to what was signed last: until then
// members cannot see it.
func (r *Repository) Stamped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current.stamped()
}

func issuedOf(m *metadata.Metadata[metadata.TimestampType]) time.Time {
	text, _ := m.Signed.UnrecognizedFields[trust.FieldIssued].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{} // signed by something that does not say
	}
	return at
}

// readAhead looks for snapshots past the one that the timestamp leads to, if it
// leads to any. The newest counts whose signature and version are right and which
// takes nothing back: parts are in the bucket before the snapshot that names them.
func (r *Repository) readAhead(ctx context.Context) error {
	from, old := int64(1), r.current
	if old.snapshotMeta != nil && r.vouched() {
		from = old.snapshotMeta.Signed.Version + 1
	} else {
		r.current.snapshot, r.current.snapshotMeta = nil, nil // none of root's takes anything of it back
	}
	vouched := r.root.VerifyDelegate // what is to be stamped, the newest root must vouch for
	if !r.opts.looksAhead() {
		vouched = r.signedByAnyRoot // what is signed anew, any that did
	}
	for v := from; ; v++ {
		raw, err := r.fetch(ctx, trust.MetadataKey(metadata.SNAPSHOT, v))
		if fault.Is(err, fault.NotFound) {
			if r.current.snapshotMeta == nil {
				r.current = old
			}
			return nil
		} else if err != nil {
			return err
		}
		m, err := trust.Decode[metadata.SnapshotType](raw)
		if err != nil || m.Signed.Version != v || vouched(metadata.SNAPSHOT, m) != nil || r.takesBack(m) {
			continue
		}
		r.current.snapshot, r.current.snapshotMeta = raw, m
	}
}

// takesBack reports whether a snapshot holds an older version of a role than the
// current one, or has lost one: members would refuse it.
func (r *Repository) takesBack(m *metadata.Metadata[metadata.SnapshotType]) bool {
	if r.current.snapshotMeta == nil {
		return false
	}
	for name, was := range r.current.snapshotMeta.Signed.Meta {
		if is := m.Signed.Meta[name]; is == nil || is.Version < was.Version {
			return true
		}
	}
	return false
}

// Repack makes every group's pack out of what was signed last.
func (r *Repository) Repack(now time.Time) (Publication, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pub := Publication{Packs: map[fleet.Group][]byte{}}
	if !r.current.stamped() {
		return pub, fault.Newf(fault.NotFound, "make packs", "timestamp", "none leads to the newest snapshot")
	}
	return pub, r.packAll(&pub, r.current, now)
}

// Newer reports whether what lies in the bucket, a timestamp or a pack, is newer
// than what is to replace it, or as new and says something else. Going back would show
// members a past that they refuse. What nobody of the fleet signed is no reason to
// leave it there.
func (r *Repository) Newer(had, next []byte) bool {
	theirs, ours := r.timestamp(TimestampIn(had)), r.timestamp(TimestampIn(next))
	switch {
	case theirs == nil || ours == nil:
		return theirs != nil
	case theirs.Signed.Version == ours.Signed.Version:
		return trust.SameTimestamp(theirs.Signed, ours.Signed) != nil
	}
	return theirs.Signed.Version > ours.Signed.Version
}

// TimestampIn is the timestamp that an object is, or that a pack holds.
func TimestampIn(body []byte) []byte {
	if p, err := trust.DecodePack(body); err == nil {
		return p.Timestamp
	}
	return body
}
