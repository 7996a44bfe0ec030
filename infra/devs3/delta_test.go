package devs3_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
)

// A version is published to S3, then the next one and the delta between the two,
// whose base is read from the bucket; a member that has the first makes the
// second of the delta, by presigned URLs and in a fraction of the bytes.
func TestADeltaThroughS3(t *testing.T) {
	t.Parallel()
	p := start(t, devs3.Options{Dir: t.TempDir()})
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	bucket := open(t, p)
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	var old []byte
	for range 5 << 20 { // 10 MiB: three frames
		old = binary.LittleEndian.AppendUint16(old, uint16(math.Float32bits(float32(rng.NormFloat64()*0.02))>>16))
	}
	next := slices.Concat([]byte("a header that grew"), old)
	for i := 18; i+2 <= len(next); i += 8 { // trained a little
		binary.LittleEndian.PutUint16(next[i:], binary.LittleEndian.Uint16(next[i:])+1)
	}
	publish := func(content []byte) artifact.File {
		t.Helper()
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "model.bin"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		man, err := oms.Hash(t.Context(), folder, oms.Options{Method: oms.Shards})
		if err != nil {
			t.Fatal(err)
		}
		files, err := artifact.FilesOf(man)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := artifact.Upload(t.Context(), bucket, folder, files, artifact.UploadOptions{}); err != nil {
			t.Fatal(err)
		}
		return files[0]
	}
	from, to := publish(old), publish(next)
	base, err := artifact.OpenContent(t.Context(), bucket, from, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	job := artifact.DeltaJob{File: to, New: bytes.NewReader(next), Base: base.File(), Old: base.At(t.Context())}
	st, err := artifact.UploadDelta(t.Context(), bucket, job, artifact.DeltaOptions{})
	if err != nil || !st.Kept || st.Share() > 0.25 {
		t.Fatalf("%+v, %v", st, err)
	}
	if again, err := artifact.UploadDelta(t.Context(), bucket, job, artifact.DeltaOptions{}); err != nil || !again.Known || again.Size != st.Size {
		t.Fatalf("again: %+v, %v", again, err)
	}

	src, err := web.Open(web.Options{Sign: func(ctx context.Context, keys []string) ([]string, time.Time, error) {
		return bucket.Sign(ctx, keys, time.Hour)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := src.Get(t.Context(), artifact.IndexKey(artifact.DeltaKey(from.Digest, to.Digest)), ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("a delta that is not: %v", err)
	}
	key := artifact.DeltaKey(to.Digest, from.Digest)
	b, _, err := src.Get(t.Context(), artifact.IndexKey(key), "")
	if err != nil {
		t.Fatal(err)
	}
	x, err := artifact.ParseIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	unpack, err := artifact.NewUnpacker(1)
	if err != nil {
		t.Fatal(err)
	}
	defer unpack.Close()
	var at int64
	for i, f := range x.Frames {
		body, err := src.Range(t.Context(), key, at, f.Length)
		if err != nil {
			t.Fatal(err)
		}
		packed, err := io.ReadAll(body)
		if err != nil || body.Close() != nil {
			t.Fatal(err)
		}
		at += f.Length
		plain, beside := make([]byte, x.FrameLen(i)), make([]byte, x.FrameLen(i))
		for _, s := range x.BaseSpans(i) {
			copy(beside[s.New:s.New+s.Length], old[s.Base:])
		}
		if err := unpack.Unpack(plain, packed, beside, f.Codec); err != nil || fleet.DigestOf(plain) != to.Frames[i] {
			t.Fatalf("frame %d is not what was signed: %v", i, err)
		}
	}
	if at != st.Size {
		t.Errorf("%d bytes were fetched of a delta of %d", at, st.Size)
	}
}
