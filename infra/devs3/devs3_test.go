package devs3_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == devs3.Arg {
		os.Exit(devs3.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	if os.Getenv("MODELFLEET_TIMESTAMP_KEY") != "" { // the heartbeat function, see TestTheFunctionBeats
		os.Exit(beat.Main(context.Background(), os.Getenv, os.Stderr, openKey))
	}
	os.Exit(m.Run())
}

func openKey(ctx context.Context, ref string) (signature.Signer, error) {
	return keyref.Open(ctx, ref, keyref.Options{})
}

func start(t *testing.T, o devs3.Options) *devs3.Process {
	t.Helper()
	p, err := devs3.Start(context.Background(), os.Args[0], o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t *testing.T, p *devs3.Process) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), s3.Options{Bucket: p.Bucket, Endpoint: p.Endpoint, Region: p.Region, AccessKey: p.AccessKey, SecretKey: p.SecretKey, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestItMakesItsBucketAndKeepsObjects(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	p := start(t, devs3.Options{Dir: dir, Bucket: "models", AccessKey: "me", SecretKey: "secret"})
	if err := open(t, p).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, p).Create(t.Context(), "a/b", registry.BodyOf([]byte("kept"))); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "data", "models", "a", "b")); err != nil || string(b) != "kept" {
		t.Fatalf("the object's file holds %q, %v", b, err) // the demo tampers with it there
	}
	if err := p.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	again := start(t, devs3.Options{Dir: dir, Addr: p.Addr, Bucket: "models", AccessKey: "me", SecretKey: "secret"})
	if again.Endpoint != p.Endpoint {
		t.Errorf("it listens on %s, not on %s", again.Endpoint, p.Endpoint)
	}
	b, _, err := open(t, again).Get(t.Context(), "a/b", "")
	if err != nil || string(b) != "kept" {
		t.Errorf("after a restart: %q, %v", b, err)
	}
	if err := again.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestItEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := devs3.Start(ctx, os.Args[0], devs3.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = p.Stop() // says that the context ended it
	if _, _, err := open(t, p).Get(t.Context(), "x", ""); !fault.Is(err, fault.Transient) {
		t.Errorf("it still answers: %v", err)
	}
}

func TestBadOptionsAreSaid(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		args []string
		exit int
		says string
	}{
		"port in use":     {[]string{"-dir", t.TempDir(), "-addr", taken.Addr().String()}, fault.Conflict.Exit(), "address already in use"},
		"relative folder": {[]string{"-dir", "here"}, fault.Invalid.Exit(), "not an absolute path"},
		"no folder":       {nil, fault.Invalid.Exit(), "not an absolute path"},
		"unknown flag":    {[]string{"-nonsense"}, fault.Invalid.Exit(), "nonsense"},
	} {
		var out, errs bytes.Buffer
		if got := devs3.Main(c.args, &out, &errs); got != c.exit || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
			t.Errorf("%s: exit %d, said %q", name, got, errs.String())
		}
	}
}
