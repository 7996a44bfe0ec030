package oms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// A model is signed, and found changed.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	weights := filepath.Join(dir, "weights.bin")
	if err := os.WriteFile(weights, []byte("0.25 0.5"), 0o644); err != nil {
		log.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}

	manifest, err := oms.Hash(ctx, dir, oms.Options{})
	if err != nil {
		log.Fatal(err)
	}
	bundle, err := oms.Sign(manifest, key)
	if err != nil {
		log.Fatal(err)
	}

	parsed, err := oms.Parse(bundle)
	if err != nil {
		log.Fatal(err)
	}
	signed, err := parsed.VerifyKey(&key.PublicKey)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("unchanged:", signed.Check(ctx, dir, oms.CheckOptions{}))
	if err := os.WriteFile(weights, []byte("0.25 0.6"), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println("changed:", oms.ClassOf(signed.Check(ctx, dir, oms.CheckOptions{})))
	// Output:
	// unchanged: <nil>
	// changed: changed
}
