package oms_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

var update = flag.Bool("update", false, "make the test vectors anew")

// The committed bundles are for readers in other languages, and hold later
// versions of this package to what this one wrote.
func TestCommittedBundlesStillVerify(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("testdata", "vector")
	model := filepath.Join(dir, "model")
	if *update {
		k := key(t, elliptic.P256())
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "key.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
		for name, o := range map[string]oms.Options{"files.oms": {}, "shards.oms": {Method: oms.Shards, ShardSize: 16}} {
			raw, err := oms.Sign(hash(t, model, o), k)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	must(t, err)
	block, _ := pem.Decode(data)
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	for name, root := range map[string]string{
		"files.oms":  "67a37b82fd7cfb4db0af9821a7cfcd113e2d349958ebf96c7c291d80786fa85c",
		"shards.oms": "89ea89e9d29c512c93fb23a19e9d9ff258ae4b4708595105628f9e9f1bbef396",
	} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		b, err := oms.Parse(raw)
		must(t, err)
		m, err := b.VerifyKey(pub.(*ecdsa.PublicKey))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Root.String() != root {
			t.Errorf("%s: root digest %s, want %s", name, m.Root, root)
		}
		if err := m.Check(t.Context(), model, oms.CheckOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if fp, err := oms.Fingerprint(pub); err != nil || fp != b.Hint() {
			t.Errorf("%s: names key %s, its fingerprint is %s (%v)", name, b.Hint(), fp, err)
		}
	}
}
