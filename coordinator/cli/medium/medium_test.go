package medium_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/coordinator/cli/medium"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

func open(t *testing.T, path string) *dir.Store {
	t.Helper()
	s, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func options(f *agenttest.Fleet) medium.Options {
	return medium.Options{Pin: f.Pin(), Group: fleet.DefaultGroup, Now: time.Now(), All: true}
}

// archive exports into a tar file.
func archive(t *testing.T, bucket registry.Reader, o medium.Options) (string, medium.Carried, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.tar")
	a, err := medium.CreateArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := medium.Export(t.Context(), bucket, a, o)
	return path, out, a.Close(err)
}

// load imports a tar file into a folder.
func load(t *testing.T, path, to string, o medium.Options) (medium.Carried, error) {
	t.Helper()
	r, err := medium.OpenArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	folder, err := medium.OpenFolder(to)
	if err != nil {
		t.Fatal(err)
	}
	return medium.Import(t.Context(), r, folder, o)
}

// What is exported is what is imported, in a tar file as in a folder: every byte of
// the releases that the pack names, and nothing else of the bucket.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	f := agenttest.New(t)
	v1 := f.PublishShards("1.0.0", map[string]string{"weights.bin": strings.Repeat("abcdefg", 30_000), "card.md": "# one"}, 64<<10)
	v2 := f.Publish("2.0.0", map[string]string{"weights.bin": "two", "card.md": "# one"})
	f.Publish("3.0.0", map[string]string{"weights.bin": "named by nobody"})
	f.Direct(&v1, &v2, 0)
	bucket, o := open(t, f.Bucket), options(f)
	path, out, err := archive(t, bucket, o)
	if err != nil || out.Directive != 1 || strings.Join(out.Releases, " ") != "detector@1.0.0 detector@2.0.0" {
		t.Fatalf("exported %+v: %v", out, err)
	}
	stick, site := t.TempDir(), t.TempDir()
	folder, err := medium.OpenFolder(stick)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := medium.Export(t.Context(), bucket, folder, o); err != nil {
		t.Fatal(err)
	}
	if in, err := load(t, path, site, o); err != nil || in.Bytes != out.Bytes {
		t.Fatalf("imported %+v: %v", in, err)
	}
	for _, at := range []string{stick, site} {
		n := 0
		for obj, err := range open(t, at).List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			a, _, _ := open(t, at).Get(t.Context(), obj.Key, "")
			b, _, err := bucket.Get(t.Context(), obj.Key, "")
			if err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s is not the bucket's: %v", obj.Key, err)
			}
			n++
		}
		if n != 1+2+2*4 { // the pack, two bundles, two files each with their indices
			t.Errorf("%d objects at %s", n, at)
		}
	}
	if _, err := load(t, path, site, o); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// An older export changes nothing, and says which is newer.
func TestAnOlderExportIsRefused(t *testing.T) {
	t.Parallel()
	f := agenttest.New(t)
	v1 := f.Publish("1.0.0", map[string]string{"weights.bin": "one"})
	f.Direct(&v1, nil, 0)
	bucket, o, site := open(t, f.Bucket), options(f), t.TempDir()
	old, _, err := archive(t, bucket, o)
	if err != nil {
		t.Fatal(err)
	}
	f.Change(repository.Change{Delist: []string{v1.Ref()}})
	pack := f.Refresh()
	fresh, out, err := archive(t, bucket, o)
	if err != nil || len(out.Refused) != 1 || len(out.Releases) != 0 {
		t.Fatalf("exported %+v: %v", out, err)
	}
	if _, err := load(t, fresh, site, o); err != nil {
		t.Fatal(err)
	}
	_, err = load(t, old, site, o)
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "timestamp 1") || fault.Hint(err) == "" {
		t.Errorf("the old one: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(site, "packs", "default.pack.zst")); err != nil || !bytes.Equal(got, pack) {
		t.Errorf("the site's pack changed: %v", err)
	}
}

// What is damaged, of another fleet, expired or not there is refused, and leaves no
// half of itself behind.
func TestWhatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	f := agenttest.New(t)
	v1 := f.Publish("1.0.0", map[string]string{"weights.bin": "one"})
	f.Direct(&v1, nil, 0)
	bucket, o := open(t, f.Bucket), options(f)
	path, _, err := archive(t, bucket, o)
	if err != nil {
		t.Fatal(err)
	}
	stranger := o
	stranger.Pin = fleet.DigestOf([]byte("another root"))
	if _, err := load(t, path, t.TempDir(), stranger); trust.RuleOf(err) != trust.RulePin {
		t.Errorf("of another fleet: %v", err)
	}
	late := o
	late.Now = o.Now.Add(1000 * time.Hour)
	if _, _, err := archive(t, bucket, late); !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired pack: %v", err)
	}
	unknown := o
	unknown.All, unknown.Releases = false, []string{"detector@9.9.9"}
	if _, _, err := archive(t, bucket, unknown); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "detector@1.0.0") {
		t.Errorf("a release that the pack does not name: %v", err)
	}
	undo := f.Tamper()
	bad, _, err := archive(t, bucket, o)
	if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "hash to") {
		t.Errorf("a damaged bucket: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(bad), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	undo()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(raw, []byte("one"))
	raw[i] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	site := t.TempDir()
	if _, err := load(t, path, site, o); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a damaged archive: %v", err)
	}
	if _, err := os.Stat(filepath.Join(site, "packs")); !os.IsNotExist(err) {
		t.Errorf("the pack was imported although a release was not: %v", err)
	}
	if err := os.WriteFile(path, raw[:len(raw)/3], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := medium.OpenArchive(path); !fault.Is(err, fault.Invalid) {
		t.Errorf("a torn archive: %v", err)
	}
}

// No byte of a tar file has it write outside the folder, or panic.
func FuzzArchive(f *testing.F) {
	f.Add([]byte("x"))
	f.Add(bytes.Repeat([]byte{0}, 1024))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := medium.OpenArchive(path)
		if err != nil {
			return
		}
		defer r.Close()
		if _, _, err := r.Get(t.Context(), "packs/default.pack.zst", ""); err == nil && !bytes.Contains(raw, []byte("packs/default.pack.zst")) {
			t.Error("it has a pack that it does not name")
		}
	})
}
