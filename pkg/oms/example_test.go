package oms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log"
	"math/big"
	"os"
	"path/filepath"
	"time"

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

// Signing is two steps: hash the folder, sign what was found. Any crypto.Signer
// on P-256, P-384 or P-521 will do, so that the key may be in hardware or in a
// cloud's key service.
func ExampleSign() {
	dir, key := exampleModel()
	defer os.RemoveAll(dir)

	// A name of its own keeps the folder's out of the bundle.
	manifest, err := oms.Hash(context.Background(), dir, oms.Options{Name: "detector", Method: oms.Shards, ShardSize: 4 << 20})
	if err != nil {
		log.Fatal(err)
	}
	bundle, err := oms.Sign(manifest, key)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(dir+".sig", bundle, 0o644); err != nil { // beside the folder, not in it
		log.Fatal(err)
	}
	defer os.Remove(dir + ".sig")
	fmt.Println(len(manifest.Files()), "file signed, identity", manifest.Root)
	// Output:
	// 1 file signed, identity d6cc0e87c6c82a5d6874957cf27d907f8a2788bce4672a6f4a79c24397da5973
}

// Verifying asks two questions, in this order: who signed, and is this what they
// signed. The class of an error says which check refused.
func ExampleBundle_VerifyKey() {
	ctx := context.Background()
	dir, key := exampleModel()
	defer os.RemoveAll(dir)
	manifest, err := oms.Hash(ctx, dir, oms.Options{})
	if err != nil {
		log.Fatal(err)
	}
	bundle, err := oms.Sign(manifest, key)
	if err != nil {
		log.Fatal(err)
	}

	verify := func(trusted ...*ecdsa.PublicKey) error {
		b, err := oms.Parse(bundle)
		if err != nil {
			return err
		}
		m, err := b.VerifyKey(trusted...)
		if err != nil {
			return err
		}
		return m.Check(ctx, dir, oms.CheckOptions{})
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the signer's key:", verify(&key.PublicKey))
	fmt.Println("another key:", oms.ClassOf(verify(&stranger.PublicKey)))
	if err := os.WriteFile(filepath.Join(dir, "more.bin"), nil, 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println("a file more:", oms.ClassOf(verify(&key.PublicKey)))
	// Output:
	// the signer's key: <nil>
	// another key: signature
	// a file more: extra
}

// By certificate, whoever verifies knows an authority in place of each signer,
// and says at which time the certificates are to be good.
func ExampleBundle_VerifyCertificate() {
	ctx := context.Background()
	dir, key := exampleModel()
	defer os.RemoveAll(dir)
	cert, err := x509.ParseCertificate(exampleCertificate(key))
	if err != nil {
		log.Fatal(err)
	}
	manifest, err := oms.Hash(ctx, dir, oms.Options{})
	if err != nil {
		log.Fatal(err)
	}
	bundle, err := oms.SignCertificate(manifest, key, cert)
	if err != nil {
		log.Fatal(err)
	}

	roots := x509.NewCertPool()
	roots.AddCert(cert)
	b, err := oms.Parse(bundle)
	if err != nil {
		log.Fatal(err)
	}
	signed, err := b.VerifyCertificate(roots, cert.NotBefore.Add(time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("while it is good:", signed.Check(ctx, dir, oms.CheckOptions{}))
	_, err = b.VerifyCertificate(roots, cert.NotAfter.Add(time.Hour))
	fmt.Println("after its end:", oms.ClassOf(err))
	// Output:
	// while it is good: <nil>
	// after its end: certificate
}

// exampleModel is a folder with a model, and a key to sign it with.
func exampleModel() (dir string, key *ecdsa.PrivateKey) {
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "weights.bin"), []byte("0.25 0.5"), 0o644); err != nil {
		log.Fatal(err)
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		log.Fatal(err)
	}
	return dir, key
}

// exampleCertificate is one for code signing that vouches for itself.
func exampleCertificate(key *ecdsa.PrivateKey) (der []byte) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "models of acme"},
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		log.Fatal(err)
	}
	return der
}
