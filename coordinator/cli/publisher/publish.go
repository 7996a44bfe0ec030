// Package publisher puts a release into the bucket and looks at one that is
// there. It is what `modelfleet publish` and `modelfleet verify` do, without
// flags and printing.
//
//	folder -> manifest -> OMS bundle, signed -> files -> bundle -> publisher role
//
// The order is the promise: whoever reads between two steps sees the release
// whole or not at all. Each step finds out what was done before and does only
// the rest, so a publication that was cut short is finished by repeating it, and
// one that is done is left alone.
package publisher

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Source is a folder that becomes a variant of the release.
type Source struct {
	Dir     string
	Variant string   // default fleet.DefaultVariant
	Classes []string // hardware classes it is for; empty: any
}

// Release is what to publish.
type Release struct {
	Team    fleet.Team
	Model   fleet.ModelName
	Version fleet.Version
	Sources []Source
	Metrics map[string]float64 // evaluation results, signed with the release
	// MinAgent is the lowest agent version that may run it.
	MinAgent string
	// Card and Baseline are files whose digests are signed with the release.
	Card, Baseline string
}

// Progress is told how publishing goes.
type Progress struct {
	// Step says which part begins, of how many bytes: "hash", "upload" or "delta
	// from VERSION".
	Step func(what string, total int64)
	// At says how many bytes of the step are done in all.
	At func(done int64)
	// Settled says how a step ended.
	Settled func(format string, args ...any)
}

// Options is where and as whom to publish.
type Options struct {
	Store      registry.Store
	Repository *repository.Repository
	Key        *signer.Signer
	Now        time.Time
	DryRun     bool // hash and sign, write nothing
	Deltas     Deltas
	Keyless    keyless.Signing // with whose word to sign besides, where the policy asks for it; without TrustedRoot
	Progress   Progress
	// Patience is how long a bucket that does not answer is tried again; default: not.
	Patience time.Duration
}

// Outcome is what publishing did.
type Outcome struct {
	Release   fleet.Release `json:"release"`
	Upload    Upload        `json:"upload"`
	Deltas    []Delta       `json:"deltas,omitempty"`
	Published bool          `json:"published"` // now; false: it was published before, or a dry run
	Role      string        `json:"role,omitempty"`
	// Proposal says who else must sign before the release counts.
	Proposal *Placed `json:"proposal,omitempty"`
	// Placed is the version of the role; zero when it was listed before.
	Placed Placed `json:"-"`
}

// Upload is what was sent.
type Upload struct {
	Files   int   `json:"files"`   // of the release
	Bytes   int64 `json:"bytes"`   // plain, of all files
	Sent    int64 `json:"sent"`    // bytes of objects that were made
	Objects int   `json:"objects"` // objects that were made
	Reused  int   `json:"reused"`  // files whose content was in the bucket already, or is that of another one
	Saved   int64 `json:"saved"`   // their plain bytes
	Packed  int64 `json:"packed"`  // bytes a member fetches when it takes the smallest objects
	// Found are objects, and their bytes, that an attempt which was cut short had sent.
	Found      int   `json:"found,omitempty"`
	FoundBytes int64 `json:"found_bytes,omitempty"`
}

// attempts is how often a new version of the role is tried against others who
// publish for the same team at the same moment.
const attempts = 4

// Publish puts the release into the bucket, as far as it is not there.
func Publish(ctx context.Context, o Options, r Release) (Outcome, error) {
	o.Store = patient{o.Store, o.Patience}
	a := repository.Addition{Bundles: map[string][]byte{}, Entry: trust.Entry{
		Release: fleet.Release{Team: r.Team, Model: r.Model, Version: r.Version}, Metrics: r.Metrics, MinAgent: r.MinAgent,
	}}
	var err error
	if a.Entry.Card, err = digestOf("model card", r.Card); err != nil {
		return Outcome{}, err
	}
	if a.Entry.Baseline, err = digestOf("baseline", r.Baseline); err != nil {
		return Outcome{}, err
	}
	draft, err := o.Repository.Draft(ctx, r.Team)
	if err != nil {
		return Outcome{}, err
	}
	if err := o.vouchable(r.Team); err != nil {
		return Outcome{}, err
	}
	var out Outcome
	var signed []prepared
	for _, src := range r.Sources {
		p, err := o.prepare(ctx, a.Entry.Release, src)
		if err != nil {
			return Outcome{}, err
		}
		if err := unchanged(draft, p); err != nil {
			return Outcome{}, err
		}
		signed = append(signed, p)
		a.Bundles[p.variant.Name] = p.bundle
		a.Entry.Release.Variants = append(a.Entry.Release.Variants, p.variant)
	}
	out.Release = a.Entry.Release
	bases, err := o.Deltas.bases(draft.Role, out.Release)
	if err != nil || o.DryRun {
		return out, err
	}
	if err := o.send(ctx, &out, draft, signed, bases); err != nil {
		return out, err
	}
	for _, p := range signed {
		if _, err := o.Store.Create(ctx, p.path, registry.BodyOf(p.bundle)); err != nil {
			return out, fault.New(fault.KindOf(err), "write bundle", p.path, err)
		}
	}
	if err := o.vouch(ctx, r.Team, signed); err != nil {
		return out, err
	}
	return o.list(ctx, out, a)
}

// send uploads the files, and the deltas to them: they are there before anybody
// hears of the release.
func (o Options) send(ctx context.Context, out *Outcome, draft repository.Draft, signed []prepared, bases []fleet.Version) error {
	for _, p := range signed {
		stats, err := o.upload(ctx, p)
		if err != nil {
			return err
		}
		out.add(stats)
	}
	for _, p := range signed {
		made, err := o.deltas(ctx, draft, out.Release, p.variant.Name, &side{o: o, files: p.files, dir: p.dir}, bases)
		if out.Deltas = append(out.Deltas, made...); err != nil {
			return err
		}
	}
	return nil
}

func (o *Outcome) add(s artifact.UploadStats) {
	o.Upload.Files += s.Files
	o.Upload.Bytes += s.Bytes
	o.Upload.Sent += s.Sent
	o.Upload.Objects += s.Objects
	o.Upload.Reused += s.Reused
	o.Upload.Saved += s.Saved
	o.Upload.Packed += s.Packed
	o.Upload.Found += s.Found
	o.Upload.FoundBytes += s.FoundBytes
}

// prepared is a folder, hashed and signed.
type prepared struct {
	dir     string
	team    fleet.Team
	path    string // of the bundle
	variant fleet.Variant
	files   []artifact.File
	bundle  []byte

	manifest oms.Manifest
}

// prepare hashes and signs a folder. A signature is never the same twice, so a
// bundle of the same content that is in the bucket already is taken as it is.
func (o Options) prepare(ctx context.Context, r fleet.Release, src Source) (prepared, error) {
	if src.Variant == "" {
		src.Variant = fleet.DefaultVariant
	}
	p := prepared{dir: src.Dir, team: r.Team, path: r.BundlePath(src.Variant)}
	shape, err := survey(src.Dir)
	if err != nil {
		return p, err
	}
	o.Progress.step("hash", shape.bytes)
	count := meter(o.Progress)
	how := oms.Options{Method: shape.method(), Name: string(r.Model), Progress: count}
	if how.Method == oms.Shards {
		how.ShardSize = artifact.FrameSize
	}
	m, err := oms.Hash(ctx, src.Dir, how)
	if err != nil {
		return p, refused("hash model folder", src.Dir, err)
	}
	whole := ""
	if shape.empty && shape.largest > artifact.FrameSize {
		whole = "; signed by whole files, as an empty file rules shards out"
	}
	o.Progress.settled("%s, identity %s%s", console.Count(len(m.Files()), "file"), fleet.Digest(m.Root).Short(), whole)
	p.manifest = m
	p.variant = fleet.Variant{Name: src.Variant, Classes: src.Classes, Root: fleet.Digest(m.Root), Size: shape.bytes}
	if p.files, err = artifact.FilesOf(m); err != nil {
		return p, err
	}
	if p.bundle, err = o.existing(ctx, p); err != nil || p.bundle != nil {
		p.variant.Bundle = fleet.DigestOf(p.bundle)
		return p, err
	}
	if p.bundle, err = oms.Sign(m, o.Key); err != nil {
		return p, fault.New(fault.Invalid, "sign", src.Dir, err)
	}
	p.variant.Bundle = fleet.DigestOf(p.bundle)
	return p, nil
}

// existing is the bundle in the bucket, if it is ours and of this content; nil
// when there is none.
func (o Options) existing(ctx context.Context, p prepared) ([]byte, error) {
	body, _, err := o.Store.Get(ctx, p.path, "")
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	b, err := oms.Parse(body)
	if err != nil {
		return nil, fault.New(fault.Untrusted, "read bundle", p.path, err)
	}
	keys, err := o.Repository.Keys(p.team) // whoever of the team began it
	if err != nil {
		return nil, err
	}
	m, err := b.VerifyKey(keys...)
	if err != nil {
		return nil, fault.New(fault.Untrusted, "verify bundle", p.path, err).
			WithHint("somebody else put a bundle there: publish under another version and look into who may write to the bucket")
	}
	if fleet.Digest(m.Root) != p.variant.Root {
		return nil, fault.Newf(fault.Conflict, "publish", p.path, "the version was begun with other content (%s, this is %s)", fleet.Digest(m.Root).Short(), p.variant.Root.Short()).
			WithHint("a published version never changes: give this content a new version")
	}
	return body, nil
}

// unchanged refuses at once, before anything is sent, what the role would refuse
// at the end.
func unchanged(d repository.Draft, p prepared) error {
	e, ok := d.Role.Entries[p.path]
	if !ok || e.Release.Variants[0].Root == p.variant.Root {
		return nil
	}
	return fault.Newf(fault.Conflict, "publish", p.path, "the version is published with other content (%s, this is %s)", e.Release.Variants[0].Root.Short(), p.variant.Root.Short()).
		WithHint("a published version never changes: give this content a new version")
}

// upload sends a folder's files, as far as they are not in the bucket.
func (o Options) upload(ctx context.Context, p prepared) (artifact.UploadStats, error) {
	o.Progress.step("upload", p.variant.Size)
	stats, err := artifact.Upload(ctx, o.Store, p.dir, p.files, artifact.UploadOptions{Progress: func(u artifact.UploadProgress) { o.Progress.at(u.Done) }})
	if err != nil {
		return stats, err
	}
	if stats.Objects == 0 {
		o.Progress.settled("everything is already in the bucket: %s, %s", console.Count(stats.Files, "file"), console.Bytes(stats.Bytes))
		return stats, nil
	}
	found := ""
	if stats.Found > 0 {
		found = fmt.Sprintf(", plus %s from an interrupted run, %s", console.Count(stats.Found, "object"), console.Bytes(stats.FoundBytes))
	}
	o.Progress.settled("%d of %d files sent, plain and packed, %s in %s; there already: %s, %s%s",
		stats.Files-stats.Reused, stats.Files, console.Bytes(stats.Sent), console.Count(stats.Objects, "object"), console.Count(stats.Reused, "file"), console.Bytes(stats.Saved), found)
	return stats, nil
}

// list adds the release to the team's role, or proposes to.
func (o Options) list(ctx context.Context, out Outcome, a repository.Addition) (Outcome, error) {
	var draft repository.Draft
	placed, err := Change(ctx, o, a.Entry.Release.Team, func(d repository.Draft) (*repository.Change, error) {
		draft = d
		return &repository.Change{Add: []repository.Addition{a}}, nil
	})
	switch {
	case err != nil:
		return out, err
	case placed.Key == "":
		return o.listed(out, draft), nil
	}
	out.Release, out.Published, out.Role = placed.signed.Added[0].Release, placed.Done(), placed.Key
	out.Placed = placed
	if placed.Missing > 0 {
		out.Proposal = &placed
	}
	return out, nil
}

// listed fills in what the role says of a release that it lists already.
func (o Options) listed(out Outcome, d repository.Draft) Outcome {
	for i, v := range out.Release.Variants {
		if e, ok := d.Role.Entries[out.Release.BundlePath(v.Name)]; ok {
			out.Release.Counter, out.Release.Variants[i] = e.Release.Counter, e.Release.Variants[0]
		}
	}
	return out
}

// shape is what a folder looks like before it is hashed.
type shape struct {
	bytes   int64
	largest int64
	empty   bool
}

// method is how to sign the folder: in shards where a file is larger than one,
// so that a bad range is found alone; whole files otherwise, and where an empty
// file rules shards out.
func (s shape) method() oms.Method {
	if s.largest > artifact.FrameSize && !s.empty {
		return oms.Shards
	}
	return oms.Files
}

// survey measures a folder. Hash looks at everything again and refuses what it must.
func survey(dir string) (shape, error) {
	var s shape
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return s, fault.Newf(fault.Invalid, "read model folder", dir, "it is not a folder").WithHint("put the model's files into a folder of their own")
	}
	if err == nil {
		err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				s.bytes, s.largest, s.empty = s.bytes+info.Size(), max(s.largest, info.Size()), s.empty || info.Size() == 0
			}
			return err
		})
	}
	if err != nil {
		kind := fault.Invalid
		if os.IsNotExist(err) {
			kind = fault.NotFound
		}
		return s, fault.New(kind, "read model folder", dir, err)
	}
	return s, nil
}

// refused gives the reason for which a folder cannot be signed a next move.
func refused(op, dir string, err error) error {
	f := fault.New(fault.Invalid, op, dir, err)
	switch oms.ClassOf(err) {
	case oms.Irregular:
		return f.WithHint("a release holds plain files only: replace links by the files they lead to")
	case oms.Empty:
		return f.WithHint("put the model's files into the folder")
	case oms.Reading:
		f.Kind = fault.KindOf(err)
		if f.Kind == fault.Internal {
			f.Kind = fault.Denied
		}
	}
	return f
}

// digestOf is the digest of a file that is signed along; zero for none.
func digestOf(what, path string) (fleet.Digest, error) {
	if path == "" {
		return fleet.Digest{}, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fleet.Digest{}, fault.New(fault.NotFound, "read "+what, path, err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return fleet.Digest{}, fault.Newf(fault.Invalid, "read "+what, path, "it is empty")
	}
	return fleet.DigestOf(b), nil
}
