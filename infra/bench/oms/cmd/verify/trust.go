package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

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
