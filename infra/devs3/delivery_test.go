package devs3_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
)

// The whole way on real parts: a folder is published to S3 and installed by
// presigned URLs, as a device does; a byte changed in the bucket is refused.
func TestAModelFromS3ToADevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, devs3.Options{Dir: dir})
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	bucket := open(t, p)
	folder := t.TempDir()
	weights := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB: two frames
	if err := os.WriteFile(filepath.Join(folder, "model.bin"), weights, 0o644); err != nil {
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
	src, err := web.Open(web.Options{Sign: func(ctx context.Context, keys []string) ([]string, time.Time, error) {
		return bucket.Sign(ctx, keys, time.Hour)
	}})
	if err != nil {
		t.Fatal(err)
	}
	install := func() (delivery.Result, error) {
		store, err := cas.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		f, err := delivery.New(delivery.Options{Store: store, Source: src})
		if err != nil {
			t.Fatal(err)
		}
		return f.Install(t.Context(), delivery.Want{Key: fleet.Digest{1}, Manifest: man, Size: man.Size()}, nil)
	}
	res, err := install()
	if err != nil {
		t.Fatal(err)
	}
	if err := man.Check(t.Context(), res.Dir, oms.CheckOptions{}); err != nil {
		t.Fatal(err)
	}
	if res.Progress.From[delivery.Full] != int64(len(weights)) {
		t.Errorf("it came from %v", res.Progress.From)
	}
	for _, key := range []string{artifact.RawKey(files[0].Digest), artifact.FullKey(files[0].Digest)} {
		f, err := os.OpenFile(filepath.Join(dir, "data", p.Bucket, filepath.FromSlash(key)), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("TAMPERED"), 100); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := install(); !fault.Is(err, fault.Untrusted) {
		t.Fatalf("a tampered bucket: error is %v", err)
	} else {
		t.Log(err)
	}
}
