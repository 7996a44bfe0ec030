package uplink

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Identity is who the member is, as its enrolment said. It is persisted.
type Identity struct {
	URL         string       `json:"url"`           // of the coordinator
	Pin         string       `json:"pin,omitempty"` // of its TLS key, in hex; empty: judged by the system's CAs
	Fleet       string       `json:"fleet"`
	Facts       fleet.Facts  `json:"facts"`
	RootPin     fleet.Digest `json:"rootPin"`     // from the join token
	Root        []byte       `json:"root"`        // root.json, with that digest
	Certificate []byte       `json:"certificate"` // DER
	Issuer      []byte       `json:"issuer"`      // DER of the device CA
	Generation  uint64       `json:"generation"`  // of Certificate
	Cell        api.Cell     `json:"cell"`
}

// Newcomer is what a device says of itself when it enrols.
type Newcomer struct {
	Dir      string // where key and identity are kept; made when missing
	Token    string // text of the join token; not needed once enrolled
	ID       fleet.MemberID
	Labels   fleet.Labels
	Agent    string // version
	Platform string // GOOS/GOARCH
}

// Enrolment is what enrolling gave besides the identity.
type Enrolment struct {
	Trust trust.State // begins with the root that the token pins
	Pack  []byte      // the group's first trust pack
}

// Load reads a kept identity and its key. It is NotFound when the device has not
// enrolled.
func Load(ctx context.Context, dir string) (Identity, *signer.Signer, error) {
	var id Identity
	path := filepath.Join(dir, "identity.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil, fault.New(fault.NotFound, "load identity", path, err).
			WithHint("give the agent a join token: modelfleet token create")
	}
	if err != nil {
		return id, nil, cas.Classify("load identity", path, err)
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return id, nil, fault.New(fault.Invalid, "load identity", path, err).
			WithHint("the file is damaged: remove it and enrol again with a new join token")
	}
	key, err := signer.Load(ctx, filepath.Join(dir, "key.pem"))
	if err != nil {
		return id, nil, err
	}
	cert, err := x509.ParseCertificate(id.Certificate)
	if err == nil && !key.ECDSA().Equal(cert.PublicKey) {
		err = errors.New("the certificate is for another key")
	}
	if err != nil {
		return id, nil, fault.New(fault.Invalid, "load identity", path, err).
			WithHint("remove the folder %s and enrol again with a new join token", dir)
	}
	return id, key, nil
}

// save persists the identity.
func (id Identity) save(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "save identity", dir, err)
	}
	return cas.WriteFile(filepath.Join(dir, "identity.json"), append(data, '\n'), 0o600)
}

// Enrol makes a key, asks for an identity and keeps it. It tries until ctx ends
// as long as the trouble is the network's; a token that is refused, or a
// coordinator that is not the token's, is an error at once. A crash in between
// costs nothing: the same key may enrol again with the same token.
func Enrol(ctx context.Context, n Newcomer) (Identity, *signer.Signer, Enrolment, error) {
	var id Identity
	tok, err := trust.ParseJoinToken(n.Token)
	if err != nil {
		return id, nil, Enrolment{}, err
	}
	if err := cas.MkdirAll(n.Dir); err != nil {
		return id, nil, Enrolment{}, err
	}
	key, err := memberKey(ctx, filepath.Join(n.Dir, "key.pem"))
	if err != nil {
		return id, nil, Enrolment{}, err
	}
	csr, err := request(key, n.ID)
	if err != nil {
		return id, nil, Enrolment{}, err
	}
	id = Identity{URL: tok.URL, RootPin: tok.Root, Generation: 1}
	if !tok.TLS.IsZero() {
		id.Pin = hex.EncodeToString(tok.TLS[:])
	}
	client, err := api.NewClient(api.Options{URL: id.URL, Pin: id.Pin})
	if err != nil {
		return id, nil, Enrolment{}, err
	}
	defer client.Close()
	req := api.EnrolRequest{
		TokenID: tok.ID, Secret: tok.SecretText(), Member: n.ID, Kind: fleet.Device,
		Labels: n.Labels, CSR: csr, Agent: n.Agent, Platform: n.Platform,
	}
	var reply api.EnrolReply
	for try := 1; ; try++ {
		reply, err = client.Enrol(ctx, req)
		if err == nil || !fault.KindOf(err).Retry() || !pause(ctx, backoff(try)) {
			break
		}
	}
	if err != nil {
		return id, nil, Enrolment{}, err
	}
	st, err := id.accept(reply, tok, key.ECDSA())
	if err != nil {
		return id, nil, Enrolment{}, err
	}
	if err := id.save(n.Dir); err != nil {
		return id, nil, Enrolment{}, err
	}
	return id, key, Enrolment{Trust: st, Pack: reply.Pack}, nil
}

// accept checks a reply against the token and takes it over.
func (id *Identity) accept(r api.EnrolReply, tok trust.JoinToken, pub *ecdsa.PublicKey) (trust.State, error) {
	st, err := trust.NewState(r.Root, tok.Root)
	if err != nil {
		return st, err
	}
	cert, name, err := checkCertificate(r.Certificate, r.DeviceCA, r.Facts.ID, pub)
	if err != nil {
		return st, err
	}
	if r.Facts.Group != tok.Group {
		return st, fault.Newf(fault.Untrusted, "enrol", string(r.Facts.ID), "the coordinator put it into group %s, the token is for %s", r.Facts.Group, tok.Group)
	}
	id.Fleet, id.Facts, id.Root, id.Certificate, id.Issuer, id.Cell = name, r.Facts, r.Root, cert.Raw, r.DeviceCA, r.Cell
	return st, nil
}

// checkCertificate checks that a certificate is this member's and by the issuer
// named beside it, and returns the fleet's name. That the issuer is the fleet's
// own is the trust pack's to say.
func checkCertificate(der, issuer []byte, member fleet.MemberID, pub *ecdsa.PublicKey) (*x509.Certificate, string, error) {
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Untrusted, "check certificate", string(member), format, args...).
			WithHint("the coordinator answered with a certificate that is not this device's")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, "", bad("%w", err)
	}
	ca, err := x509.ParseCertificate(issuer)
	if err != nil {
		return nil, "", bad("issuer: %w", err)
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return nil, "", bad("%w", err)
	}
	if !pub.Equal(cert.PublicKey) {
		return nil, "", bad("it is for another key")
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Path != "/device/"+string(member) {
		return nil, "", bad("it names %v", cert.URIs)
	}
	return cert, cert.URIs[0].Host, nil
}

// memberKey loads the key, or makes it.
func memberKey(ctx context.Context, path string) (*signer.Signer, error) {
	key, err := signer.Load(ctx, path)
	if fault.Is(err, fault.NotFound) {
		return signer.Generate(path)
	}
	return key, err
}

// request is a PKCS#10 request by key.
func request(key *signer.Signer, member fleet.MemberID) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: string(member)}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, fault.New(fault.Internal, "request certificate", string(member), err)
	}
	return csr, nil
}

// renewAt is two thirds into the certificate's life.
func (id Identity) renewAt() (time.Time, error) {
	cert, err := x509.ParseCertificate(id.Certificate)
	if err != nil {
		return time.Time{}, fault.New(fault.Invalid, "read certificate", string(id.Facts.ID), err)
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(2 * life / 3), nil
}

// Expired reports whether the certificate is past its life: the coordinator will
// not renew it, and the device must enrol again.
func (id Identity) Expired(now time.Time) bool {
	cert, err := x509.ParseCertificate(id.Certificate)
	return err == nil && now.After(cert.NotAfter)
}

// tlsCertificate is the certificate as TLS wants it.
func (id Identity) tlsCertificate(key *signer.Signer) *tls.Certificate {
	chain := [][]byte{id.Certificate}
	if len(id.Issuer) > 0 && !bytes.Equal(id.Issuer, id.Certificate) {
		chain = append(chain, id.Issuer)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key}
}

// DefaultID is a member id made from the host's name.
func DefaultID() (fleet.MemberID, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fault.New(fault.Invalid, "name member", "", err).WithHint("give the agent an -id")
	}
	return fleet.ParseMemberID(strings.ToLower(host))
}
