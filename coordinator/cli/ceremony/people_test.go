package ceremony_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// people are custodians, and a fleet they hold 2 of 3.
type people struct {
	t              testing.TB
	ana, ben, cy   *signer.Signer
	coord, stamp   *signer.Signer
	vision, second *signer.Signer
	bucket         map[string][]byte
}

func holders(m map[string]*signer.Signer) map[string]string {
	out := map[string]string{}
	for name, s := range m {
		id, _ := repository.KeyID(s.Public())
		out[id] = name
	}
	return out
}

func newPeople(t testing.TB) *people {
	k := func() *signer.Signer { return trusttest.Key(t) }
	return &people{t: t, ana: k(), ben: k(), cy: k(), coord: k(), stamp: k(), vision: k(), second: k(), bucket: map[string][]byte{}}
}

func (p *people) begin() *ceremony.Ceremony {
	p.t.Helper()
	g, err := repository.Init(repository.InitOptions{
		Fleet: "orchard", Now: trusttest.Start(), RootKeys: trusttest.Keys(p.ana, p.ben, p.cy), RootThreshold: 2,
		Teams:       []repository.Team{{Name: "vision", Keys: trusttest.Keys(p.vision)}},
		Coordinator: p.coord.Public(), Timestamp: trusttest.Keys(p.stamp), DeviceCA: certificate(p.t),
		Holders: holders(map[string]*signer.Signer{"ana": p.ana, "ben": p.ben, "cy": p.cy}),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := ceremony.Begin(g)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// travel is the file as it arrives on the next machine.
func (p *people) travel(c *ceremony.Ceremony) *ceremony.Ceremony {
	p.t.Helper()
	raw, err := c.Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := ceremony.Parse("x.json", raw)
	if err != nil {
		p.t.Fatal(err)
	}
	again, err := out.Encode()
	if err != nil || !bytes.Equal(raw, again) {
		p.t.Fatalf("the file changed by being read: %v", err)
	}
	return out
}

func (p *people) sign(c *ceremony.Ceremony, by ...*signer.Signer) *ceremony.Ceremony {
	p.t.Helper()
	for _, s := range by {
		c = p.travel(c)
		if _, err := c.Sign(s); err != nil {
			p.t.Fatal(err)
		}
	}
	return p.travel(c)
}

// fleet makes the fleet and puts it into the bucket.
func (p *people) fleet() ceremony.Metadata {
	p.t.Helper()
	c := p.sign(p.begin(), p.ana, p.cy)
	p.publish(c)
	return c.Next
}

func (p *people) publish(c *ceremony.Ceremony) {
	p.t.Helper()
	writes, err := c.Writes()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, w := range writes {
		p.bucket[w.Key] = w.Body
	}
}

func (p *people) change(m ceremony.Metadata, ch ceremony.Change) *ceremony.Ceremony {
	p.t.Helper()
	plan, err := m.Plan(ch)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := m.Make(plan, trusttest.Start(), repository.Lifetimes{})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.travel(c)
}

func new1(name string, s *signer.Signer) []ceremony.Holding {
	return []ceremony.Holding{{Holder: name, Key: s.Public()}}
}

func words(c *ceremony.Ceremony) string {
	var b strings.Builder
	for _, p := range c.Describe() {
		fmt.Fprintf(&b, "%s %d\n", p.File, p.Version)
		for _, s := range p.Says {
			fmt.Fprintf(&b, "  %s: %s [%s]\n", s.What, s.Now, strings.Join(s.Change, "; "))
		}
	}
	return b.String()
}

func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("it does not say %q:\n%s", p, text)
		}
	}
}

func refused(t *testing.T, err error, rule trust.Rule, parts ...string) {
	t.Helper()
	if trust.RuleOf(err) != rule || !fault.Is(err, fault.Untrusted) {
		t.Fatalf("%v (rule %q, kind %v), want untrusted by rule %q", err, trust.RuleOf(err), fault.KindOf(err), rule)
	}
	if fault.Hint(err) == "" {
		t.Errorf("%v ends without a next move", err)
	}
	says(t, err.Error(), parts...)
}

func (p *people) open(root []byte) *repository.Repository {
	p.t.Helper()
	get := func(_ context.Context, key string) ([]byte, error) {
		if b, ok := p.bucket[key]; ok {
			return b, nil
		}
		return nil, fault.Newf(fault.NotFound, "read", key, "absent")
	}
	r, err := repository.Open(p.t.Context(), get, repository.Options{Root: root})
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

func keys(ss []*signer.Signer) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, s := range ss {
		out = append(out, s.Public())
	}
	return out
}

func certificate(t testing.TB) []byte {
	s := trusttest.Key(t)
	x := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "orchard"}, NotBefore: trusttest.Start(), NotAfter: trusttest.Start().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, x, x, s.Public(), s)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
