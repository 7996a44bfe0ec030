// Command verify checks a model against its OMS bundle and does nothing else:
// the smallest program that can, measured by the oms benchmark.
//
//	verify -key key.pub model.sig ./model
//	verify -root ca.pem model.sig ./model
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

func main() {
	key := flag.String("key", "", "public key `file` in PEM")
	root := flag.String("root", "", "trusted certificate `file` in PEM")
	workers := flag.Int("workers", 0, "files or shards hashed at once; 0: one for each core")
	flag.Parse()
	if err := run(*key, *root, flag.Arg(0), flag.Arg(1), *workers); err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(1)
	}
}

func run(key, root, bundle, model string, workers int) error {
	raw, err := os.ReadFile(bundle)
	if err != nil {
		return err
	}
	b, err := oms.Parse(raw)
	if err != nil {
		return err
	}
	var m oms.Manifest
	if root != "" {
		m, err = byCertificate(b, root)
	} else {
		m, err = byKey(b, key)
	}
	if err != nil {
		return err
	}
	return m.Check(context.Background(), model, oms.CheckOptions{Workers: workers})
}

func byKey(b *oms.Bundle, path string) (oms.Manifest, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return oms.Manifest{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return oms.Manifest{}, fmt.Errorf("%s: no PEM in it", path)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return oms.Manifest{}, fmt.Errorf("%s: %w", path, err)
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return oms.Manifest{}, fmt.Errorf("%s: a key of type %T", path, pub)
	}
	return b.VerifyKey(ec)
}

func byCertificate(b *oms.Bundle, path string) (oms.Manifest, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return oms.Manifest{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return oms.Manifest{}, errors.New(path + ": no certificate in it")
	}
	return b.VerifyCertificate(roots, time.Now())
}
