package ca_test

import (
	"bytes"
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
	"github.com/modelfleet/modelfleet/pkg/identity"
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
	cert := must(identity.SelfSign(fleetName, key, 365*24*time.Hour, now))(t)
	return must(ca.New(fleetName, ca.Authorities{Certificates: []*x509.Certificate{cert}, Keys: []crypto.Signer{key}}))(t), key
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
		issued := must(c.Issue(want, pub, now))(t)
		der := issued.DER
		want.Certificate, want.Issuer, want.Expires = fleet.DigestOf(der), fleet.DigestOf(issued.Issuer), issued.Expires
		if got := issued.Expires.Sub(now); got != ca.Lifetime {
			t.Errorf("valid for %s, want %s", got, ca.Lifetime)
		}
		got, gotKey, err := c.Verify(der, now)
		if err != nil || got != want || !gotKey.Equal(key.Public()) {
			t.Errorf("read %+v (%v), want %+v", got, err, want)
		}
		if _, _, err := c.Verify(der, now.Add(ca.Lifetime+time.Second)); !fault.Is(err, fault.Untrusted) {
			t.Errorf("expired: %v, want Untrusted", err)
		}
		if got, _, err := c.Gave(der); err != nil || got != want {
			t.Errorf("gave %+v (%v), want %+v", got, err, want)
		}
	}
}

func TestOnlyItsOwnCertificatesAreTaken(t *testing.T) {
	c, caKey := authority(t, "plant")
	other, _ := authority(t, "plant")
	key := must(signer.Ephemeral())(t)
	strange := must(other.Issue(ca.Identity{Kind: fleet.Device, ID: "x"}, key.ECDSA(), now))(t)
	if _, _, err := c.Verify(strange.DER, now); !fault.Is(err, fault.Untrusted) {
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

// A rotation: the new CA issues as soon as its key is here, the old one is believed
// until the policy drops it, and from then on not a moment longer.
func TestACAIsReplacedWithoutAGap(t *testing.T) {
	const year = 365 * 24 * time.Hour
	oldKey, newKey := must(signer.Ephemeral())(t), must(signer.Ephemeral())(t)
	old, young := must(identity.SelfSign("plant", oldKey, year, now))(t), must(identity.SelfSign("plant", newKey, year, now.Add(time.Minute)))(t)
	pub := must(signer.Ephemeral())(t).ECDSA()
	c := must(ca.New("plant", ca.Authorities{Certificates: []*x509.Certificate{old}, Keys: []crypto.Signer{oldKey}}))(t)
	issue := func() ca.Issued {
		return must(c.Issue(ca.Identity{Kind: fleet.Device, ID: "x"}, pub, now.Add(time.Hour)))(t)
	}
	good := func(der []byte) bool { _, _, err := c.Verify(der, now.Add(time.Hour)); return err == nil }
	replace := func(keys []crypto.Signer, certs ...*x509.Certificate) {
		t.Helper()
		if err := c.Replace(ca.Authorities{Certificates: certs, Keys: keys}); err != nil {
			t.Fatal(err)
		}
	}
	first := issue()
	replace([]crypto.Signer{oldKey}, old, young) // the policy was faster than the key
	if got := issue(); !bytes.Equal(got.Issuer, old.Raw) {
		t.Error("issued by a CA whose key is not here")
	}
	replace([]crypto.Signer{oldKey, newKey}, young, old) // in whatever order
	second := issue()
	if !bytes.Equal(second.Issuer, young.Raw) || !good(first.DER) || !good(second.DER) {
		t.Error("while both are listed the new one issues and both are good")
	}
	if l := c.Authorities(); len(l) != 2 || !l[0].Issues || l[0].Fingerprint != fleet.DigestOf(young.Raw) || l[1].Issues {
		t.Errorf("listed %+v", l)
	}
	replace([]crypto.Signer{oldKey, newKey}, young)
	if good(first.DER) || !good(second.DER) {
		t.Error("of the one that was removed nothing is good any more")
	}
	replace(nil, young)
	if _, err := c.Issue(ca.Identity{Kind: fleet.Device, ID: "x"}, pub, now); !fault.Is(err, fault.Exhausted) || fault.Hint(err) == "" {
		t.Errorf("without a key: %v, want Exhausted with a hint", err)
	}
	leaf := must(x509.ParseCertificate(first.DER))(t)
	if err := c.Replace(ca.Authorities{Certificates: []*x509.Certificate{leaf}}); !fault.Is(err, fault.Invalid) || !good(second.DER) {
		t.Errorf("a policy that lists no CA: %v, want Invalid and what was there", err)
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
