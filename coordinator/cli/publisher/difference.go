package publisher

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/cli/layout"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// minDelta is the size of a file below which a delta saves less than asking
// whether there is one costs.
const minDelta = 64 << 10

// MakeDeltas makes the deltas to a release that is in the bucket already. Doing
// it again makes what is missing.
func MakeDeltas(ctx context.Context, o Options, ref fleet.Release) ([]Delta, error) {
	draft, err := o.Repository.Draft(ctx, ref.Team)
	if err != nil {
		return nil, err
	}
	to := fleet.Release{Team: ref.Team, Model: ref.Model, Version: ref.Version}
	for _, e := range draft.Role.Entries {
		if e.Release.Model == to.Model && e.Release.Version == to.Version {
			to.Variants = append(to.Variants, e.Release.Variants...)
		}
	}
	if len(to.Variants) == 0 {
		return nil, fault.Newf(fault.NotFound, "find release", to.Ref(), "team %s does not list it", to.Team).
			WithHint("`modelfleet releases list` shows what is admitted")
	}
	bases, err := o.Deltas.bases(draft.Role, to)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(to.Variants, func(a, b fleet.Variant) int { return cmp.Compare(a.Name, b.Name) })
	var out []Delta
	for _, v := range to.Variants {
		files, err := o.filesOf(ctx, draft, to, v.Name)
		if err != nil {
			return out, err
		}
		made, err := o.deltas(ctx, draft, to, v.Name, &side{o: o, files: files}, bases)
		if out = append(out, made...); err != nil {
			return out, err
		}
	}
	return out, nil
}

// deltas makes the deltas from each base to one variant, and closes its side.
// What goes wrong with one is told with it and stops nothing else: it only saves
// bytes.
func (o Options) deltas(ctx context.Context, draft repository.Draft, to fleet.Release, variant string, now *side, bases []fleet.Version) ([]Delta, error) {
	var out []Delta
	for _, v := range bases {
		base := fleet.Release{Team: to.Team, Model: to.Model, Version: v}
		if _, ok := draft.Role.Entries[base.BundlePath(variant)]; !ok {
			continue // it had no such variant
		}
		d := Delta{From: v, Variant: variant}
		files, err := o.filesOf(ctx, draft, base, variant)
		if err == nil {
			old := &side{o: o, files: files}
			err = errors.Join(o.difference(ctx, &d, now, old), old.close())
		}
		if ctx.Err() != nil {
			return out, errors.Join(fault.New(fault.Canceled, "make delta", base.Ref(), ctx.Err()), now.close())
		}
		if err != nil {
			o.Progress.step(d.name(), 0)
			d.Err, d.Error = err, err.Error()
		}
		o.Progress.settled("%s", d)
		out = append(out, d)
	}
	return out, now.close()
}

// filesOf reads the files of a listed variant out of its bundle, verified.
func (o Options) filesOf(ctx context.Context, draft repository.Draft, r fleet.Release, variant string) ([]artifact.File, error) {
	key := r.BundlePath(variant)
	keys, err := o.Repository.Keys(r.Team)
	if err != nil {
		return nil, err
	}
	body, _, err := o.Store.Get(ctx, key, "")
	if err != nil {
		return nil, err
	}
	m, err := trust.Backing{Entry: draft.Role.Entries[key], Keys: keys}.VerifyBundle(body)
	if err != nil {
		return nil, err
	}
	return artifact.FilesOf(m)
}

// difference pairs the files of two sides by path and makes the delta of each
// that differs.
func (o Options) difference(ctx context.Context, d *Delta, now, old *side) error {
	here := map[fleet.Digest]bool{} // at whatever path, a member has it
	for _, f := range old.files {
		here[f.Digest] = true
	}
	var differ []opened
	var total int64
	for _, f := range now.files {
		if here[f.Digest] {
			continue
		}
		here[f.Digest] = true
		c, err := now.open(ctx, f.Path)
		if err != nil {
			return err
		}
		total += c.file.Size
		differ = append(differ, c)
	}
	o.Progress.step(d.name(), total)
	d.Files = len(differ)
	var done int64
	for _, c := range differ {
		if err := o.fileDelta(ctx, d, c, now, old, func(n int64) { o.Progress.at(done + n) }); err != nil {
			return err
		}
		done += c.file.Size
	}
	return nil
}

// fileDelta makes the delta of one file to the one at its path on the old side,
// if there is one and it is large enough.
func (o Options) fileDelta(ctx context.Context, d *Delta, c opened, now, old *side, progress func(int64)) error {
	was, ok := old.find(c.file.Path)
	if !ok || c.file.Size < minDelta {
		n, err := artifact.FetchSize(ctx, o.Store, c.file)
		d.Bytes, d.Full = d.Bytes+n, d.Full+n
		return err
	}
	d.Tried++
	s, err := artifact.FindDelta(ctx, o.Store, c.file, was.Digest)
	if err == nil && !s.Kept && (!s.Known || o.Deltas.Again) {
		s, err = o.makeDelta(ctx, c, now, old, progress)
	}
	if err != nil {
		return err
	}
	if s.Known {
		d.Known++
	}
	d.Full, d.Sent = d.Full+s.Full, d.Sent+s.Sent
	if !s.Kept {
		d.Bytes += s.Full
		return nil
	}
	d.Kept++
	d.Bytes += s.Size
	return nil
}

func (o Options) makeDelta(ctx context.Context, c opened, now, old *side, progress func(int64)) (artifact.DeltaStats, error) {
	base, err := old.open(ctx, c.file.Path)
	if err != nil {
		return artifact.DeltaStats{}, err
	}
	return artifact.UploadDelta(ctx, o.Store, artifact.DeltaJob{
		File: c.file, New: c, Base: base.file, Old: base, Regions: regions(ctx, c.file, base.file, now, old),
	}, artifact.DeltaOptions{Progress: progress, Again: o.Deltas.Again})
}

// regions lays a file beside its base by their tensors; nothing comes of it when
// one of the layouts is not known.
func regions(ctx context.Context, f, base artifact.File, now, old *side) []artifact.Region {
	return layout.Regions(now.tensors(ctx, f.Path), old.tensors(ctx, base.Path), f.Size, base.Size)
}

// side is one version's files: in a folder, or in the bucket.
type side struct {
	o        Options
	files    []artifact.File
	dir      string // "": they are read from the bucket
	contents map[string]opened
	closers  []io.Closer
}

// opened is a file that can be read, with its size known.
type opened struct {
	io.ReaderAt
	file artifact.File
}

// find returns what is known of the file at a path.
func (s *side) find(at string) (artifact.File, bool) {
	i := slices.IndexFunc(s.files, func(f artifact.File) bool { return f.Path == at })
	if i < 0 {
		return artifact.File{}, false
	}
	return s.files[i], true
}

// open returns the file at a path.
func (s *side) open(ctx context.Context, at string) (opened, error) {
	if c, ok := s.contents[at]; ok {
		return c, nil
	}
	f, ok := s.find(at)
	if !ok {
		return opened{}, fault.Newf(fault.NotFound, "read file", at, "the version has none")
	}
	c := opened{file: f}
	if s.dir == "" {
		content, err := artifact.OpenContent(ctx, s.o.Store, f, "")
		if err != nil {
			return c, fault.New(fault.KindOf(err), "read file", at, err)
		}
		s.closers = append(s.closers, content)
		c.ReaderAt, c.file = content.At(ctx), content.File()
	} else {
		f, err := os.OpenInRoot(s.dir, filepath.FromSlash(at))
		if err != nil {
			return c, fault.New(fault.Invalid, "read file", at, err)
		}
		s.closers = append(s.closers, f)
		info, err := f.Stat()
		if err != nil {
			return c, fault.New(fault.Invalid, "read file", at, err)
		}
		c.ReaderAt, c.file.Size = f, info.Size()
	}
	if s.contents == nil {
		s.contents = map[string]opened{}
	}
	s.contents[at] = c
	return c, nil
}

// tensors says where the tensors of a file are. Those of an ONNX model's external
// data are named in the model.
func (s *side) tensors(ctx context.Context, at string) []layout.Tensor {
	var files []layout.File
	for _, f := range s.files {
		if f.Path == at || strings.EqualFold(path.Ext(f.Path), ".onnx") {
			if c, err := s.open(ctx, f.Path); err == nil { // one that cannot be read names nothing
				files = append(files, layout.File{Path: f.Path, Size: c.file.Size, Content: c})
			}
		}
	}
	return layout.Of(files)[at]
}

func (s *side) close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
