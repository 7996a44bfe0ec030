package publisher

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Folder checks that the folder at dir is exactly what the bundle says and that
// one of the keys signed the bundle.
func Folder(ctx context.Context, dir string, bundle []byte, keys ...*ecdsa.PublicKey) (oms.Manifest, error) {
	b, err := oms.Parse(bundle)
	if err != nil {
		return oms.Manifest{}, fault.New(fault.Untrusted, "read bundle", "", err)
	}
	m, err := b.VerifyKey(keys...)
	if err != nil {
		return m, fault.New(fault.Untrusted, "verify bundle", "", err).WithHint("is this the publisher's key?")
	}
	if err := m.Check(ctx, dir, oms.CheckOptions{}); err != nil {
		return m, fault.New(fault.Untrusted, "verify model folder", dir, err).
			WithHint("the folder is not what was signed: fetch it again from the bucket")
	}
	return m, nil
}

// Checked is what was found good.
type Checked struct {
	Release fleet.Release `json:"release"`
	Variant string        `json:"variant"`
	Files   int           `json:"files"`
	Bytes   int64         `json:"bytes"`
	Keys    []string      `json:"keys"` // fingerprints of the publisher's keys
}

// InBucket checks a release in the bucket as a member would, from the pinned
// root to the last byte: policy, publisher role, bundle, and each file. progress
// is told how many bytes were read.
func InBucket(ctx context.Context, store registry.Reader, repo *repository.Repository, ref fleet.Release, progress func(done int64)) ([]Checked, error) {
	draft, err := repo.Draft(ctx, ref.Team)
	if err != nil {
		return nil, err
	}
	entries := map[string]trust.Entry{}
	for path, e := range draft.Role.Entries {
		if e.Release.Model == ref.Model && e.Release.Version == ref.Version {
			entries[path] = e
		}
	}
	if len(entries) == 0 {
		return nil, fault.Newf(fault.NotFound, "verify release", ref.Ref(), "team %s does not list it", ref.Team).
			WithHint("`modelfleet releases list` shows what is admitted")
	}
	return checkEntries(ctx, store, repo, ref.Team, entries, progress)
}

// checkEntries checks bundles that a team lists, by path, and every file in them.
func checkEntries(ctx context.Context, store registry.Reader, repo *repository.Repository, team fleet.Team, entries map[string]trust.Entry, progress func(done int64)) ([]Checked, error) {
	keys, err := repo.Keys(team)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, k := range keys {
		id, err := repository.KeyID(k)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	var out []Checked
	done := int64(0)
	for _, path := range slices.Sorted(maps.Keys(entries)) {
		e := entries[path]
		body, _, err := store.Get(ctx, path, "")
		if err != nil {
			return out, err
		}
		m, err := trust.Backing{Entry: e, Keys: keys}.VerifyBundle(body)
		if err != nil {
			return out, err
		}
		c := Checked{Release: e.Release, Variant: e.Release.Variants[0].Name, Keys: ids}
		if c.Files, c.Bytes, err = contents(ctx, store, m, func(n int64) { done += n; progress(done) }); err != nil {
			return out, err
		}
		out = append(out, c)
	}
	return out, nil
}

// contents reads every file of a manifest from the bucket and compares it with
// what was signed.
func contents(ctx context.Context, store registry.Reader, m oms.Manifest, progress func(int64)) (files int, bytes int64, err error) {
	list, err := artifact.FilesOf(m)
	if err != nil {
		return 0, 0, err
	}
	for _, f := range list {
		n, err := content(ctx, store, f, progress)
		if err != nil {
			return files, bytes, err
		}
		files, bytes = files+1, bytes+n
	}
	return files, bytes, nil
}

// content reads one file frame by frame.
func content(ctx context.Context, store registry.Reader, f artifact.File, progress func(int64)) (int64, error) {
	key := artifact.RawKey(f.Digest)
	size := f.Size
	if size < 0 { // signed whole: the index tells the size, the digest whether it lied
		raw, _, err := store.Get(ctx, artifact.IndexKey(key), "")
		if err != nil {
			return 0, err
		}
		x, err := artifact.ParseIndex(raw)
		if err != nil {
			return 0, err
		}
		size = x.Size
	}
	frame := f.FrameSize
	if f.Whole() {
		frame = max(size, 1)
	}
	want := f.Frames
	if f.Whole() {
		want = []fleet.Digest{f.Digest}
	}
	h := sha256.New()
	for i, digest := range want {
		from := int64(i) * frame
		length := min(frame, size-from)
		h.Reset()
		if length > 0 {
			if err := read(ctx, store, key, from, length, h, progress); err != nil {
				return 0, err
			}
		}
		if got := fleet.Digest(h.Sum(nil)); got != digest {
			return 0, fault.Newf(fault.Untrusted, "verify file", f.Path, "bytes %d to %d of %s hash to %s, signed is %s", from, from+length, key, got.Short(), digest.Short()).
				WithHint("the object in the bucket was changed after it was published: members refuse it; publish again after removing it, and look into who may write to the bucket")
		}
	}
	return size, nil
}

// read feeds a range of an object to h in pieces.
func read(ctx context.Context, store registry.Reader, key string, from, length int64, h hash.Hash, progress func(int64)) error {
	const piece = 16 << 20
	for length > 0 {
		n := min(piece, length)
		r, err := store.Range(ctx, key, from, n)
		if err != nil {
			return err
		}
		got, err := io.Copy(h, io.LimitReader(r, n))
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil || got != n {
			return fault.New(fault.Transient, "read", key, fmt.Errorf("got %d of %d bytes from %d: %w", got, n, from, err))
		}
		progress(n)
		from, length = from+n, length-n
	}
	return nil
}

// Pack checks a trust pack as a new member that pins root would, and returns
// what it proves.
func Pack(pack []byte, root fleet.Digest, facts fleet.Facts, now time.Time) (trust.Trusted, error) {
	st, err := trust.StateFromPack(pack, root)
	if err != nil {
		return trust.Trusted{}, err
	}
	t, _, err := trust.Verify(pack, st, facts, now)
	return t, err
}
