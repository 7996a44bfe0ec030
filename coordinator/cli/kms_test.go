package cli_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// runHere runs a command as a person would, in this process.
func runHere(t *testing.T, want int, args ...string) (out string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Run(t.Context(), cli.Options{Args: args, Streams: console.Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr}, Env: os.Getenv, Version: "v1"})
	if code != want {
		t.Fatalf("modelfleet %s: exit %d, want %d\n%s%s", strings.Join(args, " "), code, want, &stdout, &stderr)
	}
	return stdout.String() + stderr.String()
}

// A fleet all of whose online keys, and root's too, are in KMS: made, coordinated,
// published to, believed by a member, and its coordinator's key replaced.
func TestAFleetWithKeysInKMS(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", dir)
	ref := map[string]string{}
	for _, role := range []string{"root", "coordinator", "coordinator-2", "timestamp", "device-ca", "publisher-vision"} {
		ref[role] = k.Key("alias/modelfleet/orchard/" + role)
	}
	if err := os.MkdirAll("bucket", 0o755); err != nil {
		t.Fatal(err)
	}
	runHere(t, 0, "init", "--dir", "orchard", "--name", "orchard", "--bucket", "dir:bucket", "--root-key", ref["root"],
		"--coordinator-key", ref["coordinator"], "--timestamp-key", ref["timestamp"], "--device-ca-key", ref["device-ca"],
		"--team", "vision="+ref["publisher-vision"])
	runHere(t, 0, "key", "sign", "orchard/orchard-root-1-policy-1.ceremony.json", "--key", ref["root"], "--yes")
	runHere(t, 0, "key", "publish", "orchard/orchard-root-1-policy-1.ceremony.json", "--dir", "orchard")
	if files, err := filepath.Glob("orchard/keys/*.pem"); err != nil || len(files) > 0 {
		t.Errorf("private keys here: %v, %v", files, err)
	}

	stop := coordinate(t, dir)
	runHere(t, 0, "context", "use", "data/admin.context.json")
	if err := os.MkdirAll("model", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("model/weights.bin", []byte("weights"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := runHere(t, 0, "publish", "model", "scorer@1.0.0", "--dir", "orchard", "--key", ref["publisher-vision"]); !strings.Contains(out, "admitted scorer@1.0.0") {
		t.Errorf("publish: %s", out)
	}
	runHere(t, 6, "publish", "model", "scorer@1.0.1", "--dir", "orchard", "--key", ref["root"])
	root := bytesOf(t, "bucket/tuf/1.root.json")
	member := believe(t, trust.State{Root: root})
	if block, _ := pem.Decode(bytesOf(t, "orchard/device-ca.crt")); block == nil {
		t.Error("no device CA")
	} else if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		t.Error(err)
	}

	// The coordinator's key is replaced under its feet.
	runHere(t, 0, "key", "rotate", "coordinator", "--to", ref["coordinator-2"], "--dir", "orchard", "--rehearse")
	runHere(t, 0, "key", "rotate", "coordinator", "--to", ref["coordinator-2"], "--dir", "orchard", "--key", ref["root"], "--yes")
	stop()
	k.Change("alias/modelfleet/orchard/coordinator", func(k *kmstest.Key) { k.State = "PendingDeletion" })
	coordinate(t, dir)
	patience := time.After(2 * time.Minute)
	for rootVersion(t, believe(t, member)) != 2 {
		select {
		case <-patience:
			t.Fatal("no pack with the new root")
		case <-time.After(20 * time.Millisecond):
		}
	}

	// A key that cannot be used is refused by name.
	k.Change("alias/modelfleet/orchard/coordinator-2", func(k *kmstest.Key) { k.Denied = true })
	err := coordinator.Run(t.Context(), coordinator.Options{Fleet: filepath.Join(dir, "orchard"), Data: filepath.Join(dir, "other"), Listen: "127.0.0.1:0"})
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "coordinator-2") || fault.Hint(err) == "" {
		t.Errorf("a key that is denied: %v", err)
	}
	if out := runHere(t, 2, "key", "rotate", "timestamp", "--to", k.P384("alias/p384"), "--dir", "orchard", "--key", ref["root"], "--yes"); !strings.Contains(out, "ECC_NIST_P384") {
		t.Errorf("%s", out)
	}
}

// coordinate runs a coordinator of the fleet in dir until stop or the test's end.
func coordinate(t *testing.T, dir string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- coordinator.Run(ctx, coordinator.Options{
			Fleet: filepath.Join(dir, "orchard"), Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Tick: 50 * time.Millisecond,
			Logger: slog.New(slog.DiscardHandler), Serving: func(coordinator.Address) { close(serving) },
		})
	}()
	select {
	case <-serving:
	case err := <-ended:
		cancel()
		t.Fatalf("coordinator: %v (%s)", err, fault.Hint(err))
	}
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil && !fault.Is(err, fault.Canceled) {
			t.Errorf("coordinator: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func bytesOf(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// believe verifies the pack in the bucket as a member does, and returns what the
// member then knows.
func believe(t *testing.T, state trust.State) trust.State {
	t.Helper()
	got, next, err := trust.Verify(bytesOf(t, "bucket/packs/default.pack.zst"), state, fleet.Facts{Group: fleet.DefaultGroup}, time.Now())
	if err != nil || got.Freshness != trust.Fresh {
		t.Fatalf("a member: %v (%s)", err, fault.Hint(err))
	}
	return next
}

func rootVersion(t *testing.T, s trust.State) int64 {
	t.Helper()
	m, err := metadata.Root().FromBytes(s.Root)
	if err != nil {
		t.Fatal(err)
	}
	return m.Signed.Version
}
