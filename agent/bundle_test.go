package agent_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// Whoever can write to the bucket can put other bundles there: an honest one of
// another release, or one of his own making. Neither brings a file to an
// application, and neither is the release's fault.
func TestForeignBundlesBringNothingIn(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	v2 := d.fleet.Publish("2.0.0", weights("two"))

	path := func(r fleet.Release) string {
		return filepath.Join(d.fleet.Bucket, filepath.FromSlash(r.BundlePath(r.Variants[0].Name)))
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(b []byte) {
		if err := os.Remove(path(v2)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(v2), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	honest := read(path(v2))
	evil := t.TempDir()
	if err := os.WriteFile(filepath.Join(evil, "weights.bin"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	manifest, err := oms.Hash(t.Context(), evil, oms.Options{Name: "detector"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := oms.Sign(manifest, key)
	if err != nil {
		t.Fatal(err)
	}
	write(forged)
	d.fleet.Direct(&v1, &v2, 100*time.Millisecond)
	for _, b := range [][]byte{forged, read(path(v1)), honest[:len(honest)/2], nil} {
		write(b)
		begun := time.Now()
		m := d.until("a refusal", func(m local.Model) bool { return m.FailureCode == "untrusted" && m.Since.After(begun) })
		if m.Failure != fleet.TransportFailure || m.Serving == nil || m.Serving.Ref != v1.Ref() || len(m.Quarantined) > 0 {
			t.Fatalf("with a bundle of %d bytes: %+v", len(b), m)
		}
		if got := d.content(); got != "one" {
			t.Fatalf("applications read %q", got)
		}
	}
	write(honest)
	m := d.serves(v2, fleet.Healthy)
	if m.Serving.Path != filepath.Join(d.o.State, "store", "releases", v2.Variants[0].Bundle.String()) || string(m.Name) != string(agenttest.Model) {
		t.Errorf("serves %+v", m)
	}
}
