package attack_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// A device's disk was copied. Both go on with it; the second to renew is found out,
// and the identity locked for both until a person has looked.
func TestClonedDevice(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	ends(t, d.Program, syscall.SIGTERM)
	renew := func(m *identity.Member) error {
		_, err := m.Renew(t.Context(), identity.Renewal{})
		return err
	}
	copied := filepath.Join(f.dir, "copy")
	sure(t, os.CopyFS(copied, os.DirFS(filepath.Join(d.state, "identity"))))
	sure(t, os.Chmod(filepath.Join(copied, "key.pem"), 0o600))
	clone, err := identity.Load(t.Context(), identity.Options{Dir: copied, Attempts: 1})
	sure(t, err)
	sure(t, renew(clone))
	sure(t, renew(clone)) // it is in use
	real, err := identity.Load(t.Context(), identity.Options{Dir: filepath.Join(d.state, "identity"), Attempts: 1})
	sure(t, err)
	if err := renew(real); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "copied") {
		t.Errorf("the second holder renewed: %v", err)
	}
	if err := renew(clone); !fault.Is(err, fault.Denied) {
		t.Errorf("the first holder goes on: %v", err)
	}
	f.sees("cam-1", "locked", func(m api.MemberInfo) bool { return strings.Contains(m.Locked, "copied") })
	f.logs("member locked", "cam-1")
	if log := f.run("audit", "log", "-o", "json"); !strings.Contains(log, "member.locked") {
		t.Error("the audit log does not tell of the lock")
	}
	f.restart(d.Program)
	d.logs("its identity is locked")
	d.stillServes("detector@1.0.0", "one")
	// It was looked at: the copy is worth nothing, the device comes anew.
	f.run("members", "revoke", "cam-1", "--reason", "cloned", "--yes")
	again := f.agent("cam-1b")
	f.runs("detector@2.0.0", "two", again)
}

// A join token that was overheard: used up, it joins nobody; of a device that is
// there, it gets nothing.
func TestTokenReplayed(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	spent, many := f.token(), f.token("--uses", "5")
	d := f.enrols("cam-1", spent)
	d.up()
	for name, c := range map[string]struct {
		token string
		id    fleet.MemberID
		kind  fault.Kind
		says  string
	}{
		"a spent token":         {spent, "cam-2", fault.Denied, "spent, expired or unknown"},
		"a name that is taken":  {many, "cam-1", fault.Conflict, "cam-1"},
		"the coordinator's own": {many, "coordinator", fault.Invalid, "the coordinator's own"},
	} {
		e := f.enrols(c.id, c.token, "-state", filepath.Join(f.dir, "thief", name))
		if code := e.ExitCode(); code != c.kind.Exit() || !strings.Contains(e.Said(), c.says) || !strings.Contains(e.Said(), "hint:") {
			t.Errorf("%s: exit code %d, want %d: %s", name, code, c.kind.Exit(), e.Said())
		}
	}
	f.runs("detector@1.0.0", "one", d)
}

// An operator's token was stolen, of one who may only look. It looks, until it is
// deleted.
func TestOperatorTokenStolen(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	o, err := f.client.CreateOperator(t.Context(), api.OperatorRequest{Name: "ann", Role: api.Viewer})
	sure(t, err)
	c, err := api.LoadContext(filepath.Join(f.dir, "data", "admin.context.json"))
	sure(t, err)
	c.Token = o.Text
	thief, err := c.Client()
	sure(t, err)
	_, err = thief.Fleet(t.Context())
	sure(t, err)
	_, err = thief.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Preset: "safe"})
	denied(t, "start a rollout", err)
	_, err = thief.CreateToken(t.Context(), api.TokenRequest{})
	denied(t, "make a join token", err)
	_, err = thief.CreateOperator(t.Context(), api.OperatorRequest{Name: "eve", Role: api.Admin})
	denied(t, "make an operator", err)
	denied(t, "revoke a member", thief.Revoke(t.Context(), "cam-1", "x"))
	f.run("operator", "delete", "ann")
	_, err = thief.Fleet(t.Context())
	denied(t, "look, once deleted", err)
	d.stillServes("detector@1.0.0", "one")
	if raw, err := os.ReadFile(filepath.Join(f.dir, "data", "coordinator.db")); err != nil || strings.Contains(string(raw), o.Text) {
		t.Errorf("the token lies in the store as it is: %v", err)
	}
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if !fault.Is(err, fault.Denied) {
		t.Errorf("%s: %v (%s)", what, err, fault.KindOf(err))
	}
}

// issued is a certificate that the thief of the device CA's key made, for a key of
// the thief's.
func (f *field) issued(kind fleet.Kind, id fleet.MemberID) *tls.Certificate {
	f.t.Helper()
	key := ephemeral(f.t)
	block, _ := pem.Decode(f.unpacked().Targets[trust.PathDeviceCA])
	ca, err := x509.ParseCertificate(block.Bytes)
	sure(f.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1<<32 + 1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "orchard", Path: "/" + string(kind) + "/" + string(id)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), f.key("device-ca"))
	sure(f.t, err)
	return &tls.Certificate{Certificate: [][]byte{der, ca.Raw}, PrivateKey: key}
}

// The device CA's key was stolen: its thief passes for a member among neighbours, but
// not at the coordinator, which knows the key that each enrolled with. A policy with
// another CA ends it.
func TestDeviceCAStolen(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	admin, err := api.LoadContext(filepath.Join(f.dir, "data", "admin.context.json"))
	sure(t, err)
	as := func(cert *tls.Certificate) *api.Client {
		c, err := api.NewClient(api.Options{URL: f.url, Pin: admin.Pin, Attempts: 1, Certificate: func() (*tls.Certificate, error) { return cert, nil }})
		sure(t, err)
		return c
	}
	id, own := d.stolen()
	codec, err := telemetry.NewCodec()
	sure(t, err)
	for who, cert := range map[string]*tls.Certificate{"nobody": f.issued(fleet.Device, "cam-666"), "a device": f.issued(fleet.Device, "cam-1")} {
		c := as(cert)
		_, err := c.Presign(t.Context(), []string{"files/x"})
		denied(t, who+" presigns", err)
		lie := rowBy(t, id.Fleet, keyIDOf(t, own), ephemeral(t), uint64(time.Now().Unix())+1000)
		batch, err := codec.Encode([][]byte{lie})
		sure(t, err)
		r, err := c.SendRows(t.Context(), "-", batch, "")
		if err == nil && r.Accepted > 0 {
			t.Errorf("%s reports what cam-1 did not sign", who)
		}
		c.Close()
	}
	d.stillServes("detector@1.0.0", "one")
	f.runs("detector@2.0.0", "two", d)
}
