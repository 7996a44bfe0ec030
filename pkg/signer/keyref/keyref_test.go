package keyref_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
)

// Whatever a reference names, its public half is the same by all ways to it.
func TestOneReferenceManyKinds(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	dir := t.TempDir()
	plain, sealed := filepath.Join(dir, "plain.pem"), filepath.Join(dir, "root-ana.pem")
	if _, err := signer.Generate(plain); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.GenerateSealed(sealed, []byte("apple")); err != nil {
		t.Fatal(err)
	}
	asked := 0
	o := keyref.Options{Passphrase: func(path string) ([]byte, error) {
		if path != sealed {
			t.Errorf("asked for the passphrase of %s", path)
		}
		asked++
		return []byte("apple"), nil
	}}
	for _, ref := range []string{plain, sealed, k.Key("alias/x")} {
		s, err := keyref.Open(t.Context(), ref, o)
		if err != nil {
			t.Fatal(err)
		}
		pem, err := signer.EncodePublic(s.ECDSA())
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "x.pub")
		if err := os.WriteFile(file, pem, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{ref, file} {
			if pub, err := keyref.Public(t.Context(), ref, o); err != nil || !pub.Equal(s.ECDSA()) {
				t.Errorf("public half of %s: %v", ref, err)
			}
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times for a passphrase, want 2", asked)
	}
	_, err := keyref.Open(t.Context(), sealed, keyref.Options{Passphrase: func(string) ([]byte, error) { return []byte("pear"), nil }})
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), sealed) || fault.Hint(err) == "" {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := keyref.Open(t.Context(), sealed, keyref.Options{}); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("a sealed key where nobody can be asked: %v", err)
	}
	if _, err := keyref.Public(t.Context(), filepath.Join(dir, "none.pub"), o); !fault.Is(err, fault.NotFound) {
		t.Errorf("an absent file: %v", err)
	}
	if _, err := keyref.Public(t.Context(), dir, o); !fault.Is(err, fault.Invalid) {
		t.Errorf("a folder: %v", err)
	}
}

func TestHolder(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"root-ana.pub": "ana", "a/b/ben.pem": "ben", "awskms:///alias/modelfleet/orchard/publisher-vision": "vision", "root-.pub": "root-",
	} {
		if got := keyref.Holder(ref); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}
