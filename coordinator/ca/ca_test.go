package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func authority(t testing.TB, fleetName string) (*ca.CA, *signer.Signer) {
	key := must(signer.Ephemeral())(t)
	cert := must(ca.SelfSign(fleetName, key, 365*24*time.Hour, now))(t)
	return must(ca.New(fleetName, key, cert))(t), key
}

func request(t testing.TB, key crypto.Signer) []byte {
	return must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "root of all"}}, key))(t)
}

func TestAnIdentityIsReadBackAsItWasIssued(t *testing.T) {
	c, _ := authority(t, "plant")
	key := must(signer.Ephemeral())(t)
	pub := must(c.CheckCSR(request(t, key)))(t)
	for _, want := range []ca.Identity{
		{Kind: fleet.Device, ID: "cam-1", Generation: 1},
		{Kind: fleet.Function, ID: "fn.2", Generation: 1 << 40},
		{Kind: ca.Coordinator, ID: "coordinator", Generation: 7},
	} {
		der, expires, err := c.Issue(want, pub, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := expires.Sub(now); got != ca.Lifetime {
			t.Errorf("valid for %s, want %s", got, ca.Lifetime)
		}
		got, gotKey, err := c.Verify(der, now)
		if err != nil || got != want || !gotKey.Equal(key.Public()) {
			t.Errorf("read %+v (%v), want %+v", got, err, want)
		}
		if _, _, err := c.Verify(der, now.Add(ca.Lifetime+time.Second)); !fault.Is(err, fault.Untrusted) {
			t.Errorf("expired: %v, want Untrusted", err)
		}
	}
}

func TestOnlyItsOwnCertificatesAreTaken(t *testing.T) {
	c, caKey := authority(t, "plant")
	other, _ := authority(t, "plant")
	key := must(signer.Ephemeral())(t)
	der, _, err := other.Issue(ca.Identity{Kind: fleet.Device, ID: "x"}, key.ECDSA(), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Verify(der, now); !fault.Is(err, fault.Untrusted) {
		t.Errorf("another CA's: %v, want Untrusted", err)
	}
	parent := must(x509.ParseCertificate(c.Certificate()))(t)
	for _, name := range []string{"spiffe://other/device/x", "spiffe://plant/robot/x", "spiffe://plant/device/", "spiffe://plant/device/a/b", "spiffe://plant/device/x?y", "https://plant/device/x", "spiffe://plant/device/UPPER"} {
		u := must(url.Parse(name))(t)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, NotBefore: now, NotAfter: now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), caKey))(t)
		if id, _, err := c.Verify(der, now); !fault.Is(err, fault.Untrusted) {
			t.Errorf("%s was read as %+v (%v), want Untrusted", name, id, err)
		}
	}
}

func TestRequestsAreJudgedByTheirKey(t *testing.T) {
	c, _ := authority(t, "plant")
	good := request(t, must(signer.Ephemeral())(t))
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	for name, tc := range map[string]struct {
		der  []byte
		kind fault.Kind
	}{
		"not DER":   {[]byte("hello"), fault.Invalid},
		"too large": {make([]byte, 1<<20), fault.Invalid},
		"P-384":     {request(t, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)), fault.Invalid},
		"RSA":       {request(t, must(rsa.GenerateKey(rand.Reader, 2048))(t)), fault.Invalid},
		"forged":    {forged, fault.Untrusted},
	} {
		if _, err := c.CheckCSR(tc.der); !fault.Is(err, tc.kind) {
			t.Errorf("%s: %v, want %v", name, err, tc.kind)
		}
	}
}

func TestAKeyAndCertificateThatDoNotBelongTogetherAreRefused(t *testing.T) {
	key := must(signer.Ephemeral())(t)
	cert := must(ca.SelfSign("plant", must(signer.Ephemeral())(t), time.Hour, now))(t)
	if _, err := ca.New("plant", key, cert); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("got %v, want Invalid with a hint", err)
	}
}

func FuzzCheckCSR(f *testing.F) {
	c, _ := authority(f, "plant")
	f.Add(request(f, must(signer.Ephemeral())(f)))
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := c.CheckCSR(der)
		if (pub == nil) == (err == nil) {
			t.Errorf("key %v, error %v", pub, err)
		}
	})
}
