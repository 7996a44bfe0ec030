package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Identity is who a member is, as its enrolment and its newest renewal said.
type Identity struct {
	URL         string       `json:"url"`            // of the coordinator
	Pin         string       `json:"pin,omitempty"`  // of its TLS key, in hex; empty: judged by the system's CAs
	Pins        []string     `json:"pins,omitempty"` // of keys that may replace it, as it said
	Fleet       string       `json:"fleet"`
	Facts       fleet.Facts  `json:"facts"`
	RootPin     fleet.Digest `json:"rootPin"`         // from the join token
	Token       string       `json:"token,omitempty"` // id of the join token it enrolled by
	Root        []byte       `json:"root"`            // root.json, with that digest
	Certificate []byte       `json:"certificate"`     // DER
	Issuer      []byte       `json:"issuer"`          // DER of the device CA
	Generation  uint64       `json:"generation"`      // of Certificate
	Sought      fleet.Digest `json:"sought,omitzero"` // SHA-256 of the newest device CA known when it was last renewed
	Cell        api.Cell     `json:"cell"`
}

// Options say where an identity is kept and how its client calls.
type Options struct {
	Dir      string // of key and identity
	Attempts int    // at an idempotent call; 0: as many as [api.Options] has
	// Token is needed to enrol. When an identity is loaded, a token, if given, says
	// where the coordinator is now.
	Token trust.JoinToken
}

func (o Options) keyPath() string { return filepath.Join(o.Dir, "key.pem") }

func (o Options) path() string { return filepath.Join(o.Dir, "identity.json") }

// aim has the identity speak to the token's coordinator. Pins that it learnt stay: a
// token that has lain about may know an older one.
func (id *Identity) aim(t trust.JoinToken) {
	id.URL, id.RootPin = t.URL, t.Root
	if t.TLS.IsZero() {
		id.Pin, id.Pins = "", nil
		return
	}
	if pin := hex.EncodeToString(t.TLS[:]); pin != id.Pin {
		if id.Pin != "" {
			id.Pins = append(id.Pins, id.Pin)
		}
		id.Pin = pin
	}
}

// learn takes over the pins that a coordinator told over a connection that one of
// them secured. None leaves those that are there, and an identity that judges by
// the system's CAs goes on doing so.
func (id *Identity) learn(pins []string) {
	if id.Pin == "" || len(pins) == 0 {
		return
	}
	id.Pin, id.Pins = pins[0], slices.Clone(pins[1:])
}

// Load takes up a kept identity. It is NotFound when there is none, and Invalid
// when it is damaged.
func Load(ctx context.Context, o Options) (*Member, error) {
	const op = "load identity"
	data, err := os.ReadFile(o.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, op, o.path(), err).WithHint("enrol with a join token: modelfleet token create")
	}
	if err != nil {
		return nil, cas.Classify(op, o.path(), err)
	}
	damaged := func(err error) error {
		return fault.New(fault.Invalid, op, o.path(), err).
			WithHint("remove the folder %s and enrol again with a new join token", o.Dir)
	}
	var id Identity
	if err := json.Unmarshal(data, &id); err != nil {
		return nil, damaged(err)
	}
	key, err := signer.Load(ctx, o.keyPath())
	if err != nil {
		return nil, err
	}
	cert, err := id.check(key.ECDSA())
	if err != nil {
		return nil, damaged(err)
	}
	if o.Token.URL != "" {
		id.aim(o.Token)
	}
	m := &Member{o: o, key: key}
	return m, m.become(id, cert)
}

// Forget removes a kept identity and its key, if they are there.
func Forget(o Options) error {
	for _, path := range []string{o.path(), o.keyPath()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cas.Classify("forget identity", path, err)
		}
	}
	return nil
}

// save persists the identity.
func (o Options) save(id Identity) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "save identity", o.path(), err)
	}
	return cas.WriteFile(o.path(), append(data, '\n'), 0o600)
}

// check reports whether the certificate is this member's, for its key, and by
// the issuer named beside it. That the issuer is the fleet's own is the trust
// pack's to say.
func (id Identity) check(pub *ecdsa.PublicKey) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(id.Certificate)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(id.Issuer)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return nil, err
	}
	if !pub.Equal(cert.PublicKey) {
		return nil, errors.New("it is for another key")
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Path != fmt.Sprintf("/%s/%s", id.Facts.Kind, id.Facts.ID) {
		return nil, fmt.Errorf("it names %v", cert.URIs)
	}
	if name := cert.URIs[0].Host; id.Fleet != "" && name != id.Fleet {
		return nil, fmt.Errorf("it is of fleet %s, this is a member of %s", name, id.Fleet)
	}
	return cert, nil
}

// judge is check of what a coordinator answered.
func (id Identity) judge(pub *ecdsa.PublicKey) (*x509.Certificate, error) {
	cert, err := id.check(pub)
	if err != nil {
		return nil, fault.New(fault.Untrusted, "check certificate", string(id.Facts.ID), err).
			WithHint("the coordinator answered with a certificate that is not this member's")
	}
	return cert, nil
}
