package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// published is a file in a bucket, whose content is known.
type published struct {
	artifact.File
	content []byte
}

func publish(t *testing.T, s artifact.Store, method oms.Method, content []byte) published {
	t.Helper()
	f := sign(t, method, map[string][]byte{"model.bin": content})
	if _, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{TempDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	f.files[0].Size = int64(len(content))
	return published{f.files[0], content}
}

func makeDelta(t *testing.T, s registry.Store, to, from published, rs ...artifact.Region) artifact.DeltaStats {
	t.Helper()
	base, err := artifact.OpenContent(t.Context(), s, from.File, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	st, err := artifact.UploadDelta(t.Context(), s, artifact.DeltaJob{
		File: to.File, New: bytes.NewReader(to.content), Base: base.File(), Old: base.At(t.Context()), Regions: rs,
	}, artifact.DeltaOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// member makes the file from the delta and the base that it has, as a device
// does, and counts the bytes of the base it read.
func member(t *testing.T, s registry.Reader, to, from published) (read int64) {
	t.Helper()
	key := artifact.DeltaKey(to.Digest, from.Digest)
	b, _, err := s.Get(t.Context(), artifact.IndexKey(key), "")
	if err != nil {
		t.Fatal(err)
	}
	x, err := artifact.ParseIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	u, err := artifact.NewUnpacker(1)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	whole := sha256.New()
	var at int64
	for i, p := range x.Frames {
		body, err := s.Range(t.Context(), key, at, p.Length)
		if err != nil {
			t.Fatal(err)
		}
		packed, err := io.ReadAll(body)
		if err != nil || body.Close() != nil {
			t.Fatal(err)
		}
		at += p.Length
		plain, base := make([]byte, x.FrameLen(i)), make([]byte, x.FrameLen(i))
		for _, r := range x.BaseSpans(i) {
			read += int64(copy(base[r.New:r.New+r.Length], from.content[r.Base:]))
		}
		if err := u.Unpack(plain, packed, base, p.Codec); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !to.Whole() && fleet.DigestOf(plain) != to.Frames[i] {
			t.Fatalf("frame %d is not what was signed", i)
		}
		whole.Write(plain)
	}
	if fleet.Digest(whole.Sum(nil)) != fleet.DigestOf(to.content) {
		t.Fatal("the whole is not what was signed")
	}
	return read
}

// changedEvery changes a byte every so many bytes.
func changedEvery(b []byte, n int) []byte {
	b = slices.Clone(b)
	for i := n / 2; i < len(b); i += n {
		b[i]++
	}
	return b
}

// Wherever the bytes of the new file come from, a member that has the base makes
// the file of the delta.
func TestDeltaRoundTrip(t *testing.T) {
	t.Parallel()
	old := bfloats(100_000, 1)
	head := []byte(strings.Repeat("header ", 1000))
	for name, c := range map[string]struct {
		now, base []byte
		regions   []artifact.Region
		share     float64 // at most
	}{
		"a few bytes changed": {changedEvery(old, 80_000), old, nil, 0.6},
		"trained":             {nudged(old), old, nil, 0.6},
		"grew at its end":     {slices.Concat(old, bfloats(5_000, 9)), old, nil, 0.2},
		"grew at its start":   {slices.Concat(head, old), old, nil, 0.2},
		"shrank":              {old[16_000:], old, nil, 0.1},
		"turned around": {slices.Concat(old[100_000:], old[:100_000]), old,
			[]artifact.Region{{New: 0, Length: 100_000, Base: 100_000}, {New: 100_000, Length: 100_000, Base: 0}}, 0.1},
	} {
		for _, method := range []oms.Method{oms.Files, oms.Shards} {
			s := bucket(t)
			from, to := publish(t, s, method, c.base), publish(t, s, method, c.now)
			before := len(keys(t, s))
			st := makeDelta(t, s, to, from, c.regions...)
			if !st.Kept || st.Known || st.Objects != 2 || st.Share() > c.share {
				t.Errorf("%s, %s: %+v is %.3f", name, method, st, st.Share())
				continue
			}
			if n := len(keys(t, s)) - before; n != 2 {
				t.Errorf("%s, %s: %d objects more", name, method, n)
			}
			if read := member(t, s, to, from); read > int64(len(c.now)) {
				t.Errorf("%s, %s: read %d bytes of the base", name, method, read)
			}
			again := makeDelta(t, s, to, from, c.regions...)
			if !again.Kept || !again.Known || again.Objects != 0 || again.Size != st.Size || again.Full != st.Full {
				t.Errorf("%s, %s: again: %+v", name, method, again)
			}
		}
	}
}

// What does not save enough is not kept: an object says so, and nobody packs it
// again unless asked to.
func TestUselessDeltasAreNotKept(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	from, to := publish(t, s, oms.Shards, bfloats(200_000, 1)), publish(t, s, oms.Shards, bfloats(200_000, 2))
	before := keys(t, s)
	if st := makeDelta(t, s, to, from); st.Kept || st.Known || st.Share() < 0.8 || st.Share() > 1.001 || st.Objects != 0 {
		t.Errorf("%+v", st)
	}
	none := artifact.DeltaKey(to.Digest, from.Digest) + ".none1"
	want := slices.Sorted(slices.Values(append(before, none)))
	if diff := cmp.Diff(want, keys(t, s)); diff != "" {
		t.Error(diff)
	}
	packed := false
	job := artifact.DeltaJob{File: to.File, New: bytes.NewReader(to.content), Base: from.File, Old: bytes.NewReader(from.content)}
	o := artifact.DeltaOptions{TempDir: t.TempDir(), Progress: func(int64) { packed = true }}
	if st, err := artifact.UploadDelta(t.Context(), s, job, o); err != nil || st.Kept || !st.Known || packed {
		t.Errorf("a second time: %+v, packed %v, %v", st, packed, err)
	}
	if st, err := artifact.FindDelta(t.Context(), s, to.File, from.Digest); err != nil || st.Kept || !st.Known || st.Share() != 1 {
		t.Errorf("looked up: %+v, %v", st, err)
	}
	o.Again = true
	if st, err := artifact.UploadDelta(t.Context(), s, job, o); err != nil || st.Kept || st.Known || !packed {
		t.Errorf("asked to: %+v, packed %v, %v", st, packed, err)
	}
}

// A stranger's word that a delta is not worth it takes the delta away, until
// somebody asks for it; and a delta that is there does not listen to it.
func TestAFalseWordAgainstADeltaTakesNothingElse(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	old := bfloats(200_000, 1)
	from, to := publish(t, s, oms.Shards, old), publish(t, s, oms.Shards, changedEvery(old, 300_000))
	if st, err := artifact.FindDelta(t.Context(), s, to.File, from.Digest); err != nil || st.Known || st.Kept || st.Full <= 0 {
		t.Errorf("nobody made it, but: %+v, %v", st, err)
	}
	none := artifact.DeltaKey(to.Digest, from.Digest) + ".none1"
	if _, err := s.Create(t.Context(), none, registry.BodyOf([]byte("trust me"))); err != nil {
		t.Fatal(err)
	}
	if st := makeDelta(t, s, to, from); st.Kept || !st.Known {
		t.Errorf("%+v", st)
	}
	job := artifact.DeltaJob{File: to.File, New: bytes.NewReader(to.content), Base: from.File, Old: bytes.NewReader(old)}
	if st, err := artifact.UploadDelta(t.Context(), s, job, artifact.DeltaOptions{TempDir: t.TempDir(), Again: true}); err != nil || !st.Kept {
		t.Fatalf("asked to: %+v, %v", st, err)
	}
	if st := makeDelta(t, s, to, from); !st.Kept || !st.Known {
		t.Errorf("once it is there: %+v", st)
	}
	member(t, s, to, from)
}

// Stopped after any object, a delta that is made again ends with the same bucket.
func TestDeltaGoesOnAfterAnyCut(t *testing.T) {
	t.Parallel()
	old := bfloats(200_000, 1)
	for cut := range 2 {
		s := bucket(t)
		from, to := publish(t, s, oms.Shards, old), publish(t, s, oms.Shards, changedEvery(old, 300_000))
		job := artifact.DeltaJob{File: to.File, New: bytes.NewReader(to.content), Base: from.File, Old: bytes.NewReader(old)}
		_, err := artifact.UploadDelta(t.Context(), &stopping{s, cut}, job, artifact.DeltaOptions{})
		if !fault.Is(err, fault.Transient) {
			t.Fatalf("cut after %d: error is %v", cut, err)
		}
		if slices.Contains(keys(t, s), artifact.IndexKey(artifact.DeltaKey(to.Digest, from.Digest))) {
			t.Errorf("cut after %d: the index, which says all there, was written", cut)
		}
		st, err := artifact.UploadDelta(t.Context(), s, job, artifact.DeltaOptions{})
		if err != nil || !st.Kept || st.Objects != 2-cut {
			t.Fatalf("cut after %d, again: %+v, %v", cut, st, err)
		}
		member(t, s, to, from)
	}
}

func TestDeltaOfWhatIsNotThereOrNotTheSame(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	old := bfloats(100_000, 1)
	from, to := publish(t, s, oms.Shards, old), publish(t, s, oms.Shards, changedEvery(old, 100_000))
	good := artifact.DeltaJob{File: to.File, New: bytes.NewReader(to.content), Base: from.File, Old: bytes.NewReader(old)}
	for name, c := range map[string]struct {
		change func(*artifact.DeltaJob)
		kind   fault.Kind
	}{
		"changed since":     {func(j *artifact.DeltaJob) { j.New = bytes.NewReader(old) }, fault.Invalid},
		"shorter since":     {func(j *artifact.DeltaJob) { j.New = bytes.NewReader(to.content[:50_000]) }, fault.Invalid},
		"base shorter":      {func(j *artifact.DeltaJob) { j.Old = bytes.NewReader(old[:50_000]) }, fault.Invalid},
		"of itself":         {func(j *artifact.DeltaJob) { j.Base = j.File }, fault.Invalid},
		"not in the bucket": {func(j *artifact.DeltaJob) { j.File.Digest = fleet.Digest{1} }, fault.NotFound},
	} {
		j := good
		c.change(&j)
		if _, err := artifact.UploadDelta(t.Context(), s, j, artifact.DeltaOptions{TempDir: t.TempDir()}); !fault.Is(err, c.kind) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// counting counts the bytes that are read of objects, and turns those of some.
type counting struct {
	*dir.Store
	read map[string]int64
	lies map[string]bool
}

func (c *counting) Range(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	kind := key[strings.LastIndex(key, "/")+1:]
	c.read[kind] += n
	body, err := c.Store.Range(ctx, key, off, n)
	if err != nil || !c.lies[kind] {
		return body, err
	}
	b, err := io.ReadAll(body)
	b[len(b)/2] ^= 0x10
	return io.NopCloser(bytes.NewReader(b)), errors.Join(err, body.Close())
}

// What is wrong in one form is taken from the other one; when both are, that is
// an error and not a wrong byte.
func TestContentThatWasChangedIsRefused(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("text that packs well "), 20_000)
	for _, method := range []oms.Method{oms.Files, oms.Shards} {
		for _, c := range []struct {
			lies map[string]bool
			good bool
		}{{map[string]bool{"full": true}, true}, {map[string]bool{"raw": true}, true}, {map[string]bool{"full": true, "raw": true}, false}} {
			s := &counting{bucket(t), map[string]int64{}, c.lies}
			f := publish(t, s, method, content)
			got := make([]byte, len(content))
			r, err := artifact.OpenContent(t.Context(), s, f.File, t.TempDir())
			if err == nil {
				_, err = r.At(t.Context()).ReadAt(got, 0)
				err = errors.Join(err, r.Close())
			}
			if good := err == nil && bytes.Equal(got, content); good != c.good || (err != nil && !fault.Is(err, fault.Untrusted)) {
				t.Errorf("%s, lies in %v: %v", method, c.lies, err)
			}
		}
	}
}

// A published file is read back in its shortest form, each frame once.
func TestContentIsReadBackVerified(t *testing.T) {
	t.Parallel()
	for _, method := range []oms.Method{oms.Files, oms.Shards} {
		s := &counting{bucket(t), map[string]int64{}, nil}
		content := bytes.Repeat([]byte("text that packs well "), 20_000)
		f := publish(t, s, method, content)
		c, err := artifact.OpenContent(t.Context(), s, f.File, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		r := io.NewSectionReader(c.At(t.Context()), 0, c.File().Size)
		got := make([]byte, 0, len(content))
		for buf := make([]byte, 30_001); ; {
			n, err := r.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, content) || s.read["raw"] != 0 || s.read["full"] > int64(len(content))/2 {
			t.Errorf("%s: %d bytes, read %v", method, len(got), s.read)
		}
		if n, err := c.At(t.Context()).ReadAt(make([]byte, 10), c.File().Size-5); n != 5 || err != io.EOF {
			t.Errorf("%s: at the end: %d, %v", method, n, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
