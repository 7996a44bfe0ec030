// Package medium carries a fleet's decisions, and the releases they name, over an
// air gap: out of the bucket onto a medium, a folder or one tar file, and from it
// into the folder that the agents of a site read.
//
//	bucket ─▶ Export ─▶ DIR or FILE.tar ─▶ Import ─▶ folder ◀─ modelfleet-agent -pack ... -source ...
//
// Keys are those of the bucket, so that a folder, as it is, serves an agent as
// its -source. Everything is verified from the pinned root on while it is copied,
// on both sides; nobody has to believe the medium. The pack is written last: what
// it names is there when it is.
package medium

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Options say what is carried.
type Options struct {
	Pin   fleet.Digest // of the root: what everything is verified from
	Group fleet.Group  // whose pack
	// Releases are the releases to carry besides the pack, as "model@version"; All
	// is every one that the pack names.
	Releases []string
	All      bool
	Now      time.Time
	// Progress is told how many bytes of model files were copied; nil: nobody.
	Progress func(done int64)
}

// Carried is what lies on the medium now.
type Carried struct {
	Group     fleet.Group `json:"group"`
	Directive uint64      `json:"directive"`
	Timestamp int64       `json:"timestamp"` // version: orders the packs of a group
	Signed    time.Time   `json:"signed"`
	Expires   time.Time   `json:"expires"`
	Stale     bool        `json:"stale,omitempty"` // members hold what they have until a newer one comes
	Releases  []string    `json:"releases"`
	Bytes     int64       `json:"bytes"` // of model files
	Refused   []string    `json:"refused,omitempty"`
	Revoked   []string    `json:"revoked,omitempty"` // members that lost their identity
}

// Export writes the group's newest pack, and the releases asked for, to a sink.
func Export(ctx context.Context, bucket registry.Reader, to Sink, o Options) (Carried, error) {
	pack, _, err := bucket.Get(ctx, o.Group.PackKey(), "")
	if err != nil {
		return Carried{}, fault.New(fault.KindOf(err), "export pack", string(o.Group), err)
	}
	t, err := verify(pack, o)
	if err != nil {
		return Carried{}, err
	}
	out := describe(t)
	if out.Stale {
		return out, fault.Newf(fault.Untrusted, "export pack", string(o.Group), "it expired at %s: members would hold what they have", t.Expires.Format(time.RFC3339)).
			WithHint("does the coordinator run? it signs anew well before; `modelfleet doctor` says what is wrong")
	}
	paths, err := o.choose(t)
	if err != nil {
		return out, err
	}
	return carry(ctx, bucket, to, pack, t, paths, out, o.Progress)
}

// Import verifies what lies on a medium and copies it to a folder. An older pack
// than the folder has is refused: it would bring no member back.
func Import(ctx context.Context, from registry.Reader, to *Folder, o Options) (Carried, error) {
	pack, _, err := from.Get(ctx, o.Group.PackKey(), "")
	if err != nil {
		return Carried{}, fault.New(fault.KindOf(err), "import pack", string(o.Group), err).
			WithHint("is it what `modelfleet pack export` wrote, and of this group?")
	}
	t, err := verify(pack, o)
	if err != nil {
		return Carried{}, err
	}
	out := describe(t)
	if had, ok := to.read(o.Group.PackKey()); ok {
		if old, err := verify(had, o); err == nil && old.Versions["timestamp"] > out.Timestamp {
			return out, fault.Newf(fault.Conflict, "import pack", string(o.Group), "it was signed at %s (timestamp %d, directive %d); there is one of %s (timestamp %d, directive %d) already",
				out.Signed.Format(time.RFC3339), out.Timestamp, out.Directive, old.Issued.Format(time.RFC3339), old.Versions["timestamp"], old.Directive.Sequence).
				WithHint("nothing was changed: members that have the newer one refuse an older one; export it again")
		}
	}
	var paths []string
	for _, path := range slices.Sorted(maps.Keys(t.Releases)) {
		_, _, err := from.Get(ctx, path, "")
		switch {
		case err == nil:
			paths = append(paths, path)
		case !fault.Is(err, fault.NotFound):
			return out, err
		}
	}
	return carry(ctx, from, to, pack, t, paths, out, o.Progress)
}

// verify checks a pack as a member of the group that pins the root would.
func verify(pack []byte, o Options) (trust.Trusted, error) {
	st, err := trust.StateFromPack(pack, o.Pin)
	if err != nil {
		return trust.Trusted{}, err
	}
	t, _, err := trust.Verify(pack, st, fleet.Facts{ID: "medium", Kind: fleet.Device, Group: o.Group}, o.Now)
	return t, err
}

func describe(t trust.Trusted) Carried {
	out := Carried{
		Group: t.Directive.Group, Directive: t.Directive.Sequence, Timestamp: t.Versions["timestamp"],
		Signed: t.Issued, Expires: t.Expires, Stale: t.Freshness == trust.Stale, Releases: []string{},
	}
	for _, r := range t.Refused {
		out.Refused = append(out.Refused, r.Release+": "+r.Err.Error())
	}
	for _, r := range t.Directive.Revoked {
		out.Revoked = append(out.Revoked, string(r.ID))
	}
	return out
}

// choose is the bundle paths of the releases asked for.
func (o Options) choose(t trust.Trusted) ([]string, error) {
	named := map[string]bool{}
	var paths []string
	for _, path := range slices.Sorted(maps.Keys(t.Releases)) {
		ref := t.Releases[path].Entry.Release.Ref()
		named[ref] = true
		if o.All || slices.Contains(o.Releases, ref) {
			paths = append(paths, path)
		}
	}
	for _, ref := range o.Releases {
		if !named[ref] {
			return nil, fault.Newf(fault.NotFound, "export release", ref, "the pack names %v", slices.Sorted(maps.Keys(named))).
				WithHint("members run only what the directive names: roll it out first")
		}
	}
	return paths, nil
}

// carry copies releases, each with its files first, and then the pack.
func carry(ctx context.Context, from registry.Reader, to Sink, pack []byte, t trust.Trusted, paths []string, out Carried, progress func(int64)) (Carried, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	done := map[string]bool{}
	for _, path := range paths {
		bundle, _, err := from.Get(ctx, path, "")
		if err != nil {
			return out, err
		}
		m, err := t.Releases[path].VerifyBundle(bundle)
		if err != nil {
			return out, err
		}
		files, err := artifact.FilesOf(m)
		if err != nil {
			return out, err
		}
		for _, f := range files {
			key := artifact.RawKey(f.Digest)
			if done[key] {
				continue
			}
			done[key] = true
			n, err := copyFile(ctx, from, to, f, func(n int64) { progress(out.Bytes + n) })
			if err != nil {
				return out, err
			}
			out.Bytes += n
		}
		if err := putBytes(to, path, bundle); err != nil {
			return out, err
		}
		if ref := t.Releases[path].Entry.Release.Ref(); !slices.Contains(out.Releases, ref) {
			out.Releases = append(out.Releases, ref)
		}
	}
	return out, putBytes(to, t.Directive.Group.PackKey(), pack)
}

func putBytes(to Sink, key string, b []byte) error {
	return to.Put(key, int64(len(b)), func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// copyFile copies a file of a release with its index, and compares each frame with
// what was signed.
func copyFile(ctx context.Context, from registry.Reader, to Sink, f artifact.File, progress func(int64)) (int64, error) {
	key := artifact.RawKey(f.Digest)
	raw, _, err := from.Get(ctx, artifact.IndexKey(key), "")
	if err != nil && (f.Size < 0 || !fault.Is(err, fault.NotFound)) {
		return 0, err
	}
	size := f.Size
	if err == nil {
		x, err := artifact.ParseIndex(raw)
		if err != nil {
			return 0, fault.New(fault.Untrusted, "read index", artifact.IndexKey(key), err)
		}
		if size < 0 {
			size = x.Size // the digest of the whole says whether it lied
		}
		if err := putBytes(to, artifact.IndexKey(key), raw); err != nil {
			return 0, err
		}
	}
	return size, to.Put(key, size, func(w io.Writer) error { return copyFrames(ctx, from, f, size, w, progress) })
}

func copyFrames(ctx context.Context, from registry.Reader, f artifact.File, size int64, w io.Writer, progress func(int64)) error {
	key, frame, want := artifact.RawKey(f.Digest), f.FrameSize, f.Frames
	if f.Whole() {
		frame, want = max(size, 1), []fleet.Digest{f.Digest}
	}
	h := sha256.New()
	done := int64(0)
	for i, digest := range want {
		at := int64(i) * frame
		length := min(frame, size-at)
		h.Reset()
		if length > 0 {
			r, err := from.Range(ctx, key, at, length)
			if err != nil {
				return err
			}
			n, err := io.Copy(io.MultiWriter(h, w), io.LimitReader(r, length))
			if err = errors.Join(err, r.Close()); err != nil || n != length {
				return fault.New(fault.Transient, "copy file", key, fmt.Errorf("%d of %d bytes from %d: %w", n, length, at, err))
			}
			done += n
			progress(done)
		}
		if got := fleet.Digest(h.Sum(nil)); got != digest {
			return fault.Newf(fault.Untrusted, "copy file", f.Path, "bytes %d to %d of %s hash to %s, signed is %s", at, at+length, key, got.Short(), digest.Short()).
				WithHint("the object was changed after it was published: get it from another source")
		}
	}
	return nil
}
