package folder

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// InitOptions says which fleet to make.
type InitOptions struct {
	Dir   string
	Fleet api.FleetFile // without Root
	Teams []fleet.Team
	Now   time.Time
}

// Made is what Init made, or found.
type Made struct {
	Folder
	Keys    []string // made now
	Objects int      // put into the bucket now
}

// deviceCALife is how long members' identities can be issued under the first CA.
const deviceCALife = 10 * 365 * 24 * time.Hour

// Init makes keys, root and policy of a fleet and puts them into its bucket. It
// makes nothing twice: after a crash, or without one, it goes on from what is
// there. fleet.json is the turning point: until it is written nothing is in the
// bucket, and afterwards root and policy are never made anew.
func Init(ctx context.Context, o InitOptions) (Made, error) {
	const op = "make fleet"
	if len(o.Teams) == 0 {
		return Made{}, fault.Newf(fault.Invalid, op, o.Fleet.Name, "no team would be able to publish").WithHint("name one with --team")
	}
	if path, ok := strings.CutPrefix(o.Fleet.Bucket, folderScheme); ok {
		abs, err := filepath.Abs(path) // the coordinator runs elsewhere
		if err != nil {
			return Made{}, fault.New(fault.Invalid, op, o.Fleet.Bucket, err)
		}
		o.Fleet.Bucket = folderScheme + abs
	}
	store, err := OpenBucket(ctx, o.Fleet)
	if err != nil {
		return Made{}, err
	}
	m := Made{Folder: Folder{Dir: o.Dir, FleetFile: o.Fleet}}
	old, err := Open(o.Dir)
	switch {
	case err == nil:
		if err := old.same(o.Fleet); err != nil {
			return m, err
		}
		m.Folder = old
	case fault.Is(err, fault.NotFound):
		if err := m.create(ctx, o, store); err != nil {
			return m, err
		}
	default:
		return m, err
	}
	writes, err := m.kept()
	if err != nil {
		return m, err
	}
	if m.Objects, err = Put(ctx, store, writes); err != nil {
		return m, fault.New(fault.KindOf(err), op, o.Fleet.Name, err).WithHint("the bucket already holds another fleet: choose another bucket or --prefix")
	}
	return m, nil
}

// same refuses to take a folder for another fleet's.
func (f Folder) same(want api.FleetFile) error {
	have := f.FleetFile
	have.Root = fleet.Digest{}
	if have != want {
		return fault.Newf(fault.Conflict, "make fleet", want.Name, "%s is the folder of fleet %s in bucket %s", f.Dir, f.Name, f.Bucket).
			WithHint("choose another folder with --dir, or repeat the options it was made with")
	}
	return nil
}

// create makes keys, metadata and fleet.json, in this order.
func (m *Made) create(ctx context.Context, o InitOptions, store registry.Reader) error {
	if _, err := m.ReadRoot(ctx, store); !fault.Is(err, fault.NotFound) {
		if err == nil || fault.Is(err, fault.Untrusted) {
			err = fault.Newf(fault.Conflict, "make fleet", o.Fleet.Name, "bucket %s already holds a fleet's root", o.Fleet.Bucket).
				WithHint("choose another bucket or --prefix, or the folder that this fleet was made in")
		}
		return err
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "keys"), 0o700); err != nil {
		return fault.New(fault.Denied, "make folder", o.Dir, err)
	}
	keys := map[string]*signer.Signer{}
	names := []string{"root", "coordinator", "timestamp", "device-ca"}
	for _, t := range o.Teams {
		names = append(names, "publisher-"+string(t))
	}
	for _, name := range names {
		k, made, err := m.key(ctx, name)
		if err != nil {
			return err
		}
		if keys[name] = k; made {
			m.Keys = append(m.Keys, name)
		}
	}
	ca, err := m.deviceCA(keys["device-ca"], o.Now)
	if err != nil {
		return err
	}
	init := repository.InitOptions{
		Fleet: o.Fleet.Name, Now: o.Now, Root: []signature.Signer{keys["root"]},
		Coordinator: keys["coordinator"].Public(), Timestamp: []crypto.PublicKey{keys["timestamp"].Public()}, DeviceCA: ca,
	}
	for _, t := range o.Teams {
		init.Teams = append(init.Teams, repository.Team{Name: t, Keys: []crypto.PublicKey{keys["publisher-"+string(t)].Public()}})
	}
	genesis, err := repository.Init(init)
	if err != nil {
		return err
	}
	if err := m.keep(genesis.Writes); err != nil {
		return err
	}
	m.Root = genesis.Pin
	text, err := m.FleetFile.Encode()
	if err != nil {
		return fault.New(fault.Internal, "write", api.FleetFileName, err)
	}
	return cas.WriteFile(filepath.Join(o.Dir, api.FleetFileName), text, 0o644)
}

// key loads a key of the folder, or makes it.
func (m *Made) key(ctx context.Context, name string) (k *signer.Signer, made bool, err error) {
	path := m.KeyPath(name)
	if _, err := os.Stat(path); err == nil {
		k, err = signer.Load(ctx, path)
		return k, false, err
	}
	k, err = signer.Generate(path)
	return k, true, err
}

// deviceCA is the certificate in PEM that members' identities are issued under:
// the folder's, or a new one.
func (m *Made) deviceCA(key *signer.Signer, now time.Time) ([]byte, error) {
	path := filepath.Join(m.Dir, "device-ca.crt")
	if b, err := os.ReadFile(path); err == nil {
		return b, nil
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fault.New(fault.Internal, "make device CA", m.Name, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{m.Name}, CommonName: m.Name + " device CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(deviceCALife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fault.New(fault.Internal, "make device CA", m.Name, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return text, cas.WriteFile(path, text, 0o644)
}

// order is the file that lists what was kept, in the order of writing.
const order = "order.json"

// keep stores writes in the folder: they are signed and cannot be made the same again.
func (m *Made) keep(writes []repository.Write) error {
	var keys []string
	for _, w := range writes {
		path := filepath.Join(m.Dir, "repository", filepath.FromSlash(w.Key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fault.New(fault.Denied, "make folder", filepath.Dir(path), err)
		}
		if err := cas.WriteFile(path, w.Body, 0o644); err != nil {
			return err
		}
		keys = append(keys, w.Key)
	}
	text, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "write", order, err)
	}
	return cas.WriteFile(filepath.Join(m.Dir, "repository", order), append(text, '\n'), 0o644)
}

// kept reads back what keep stored.
func (m *Made) kept() ([]repository.Write, error) {
	root, err := os.OpenRoot(filepath.Join(m.Dir, "repository"))
	if err != nil {
		return nil, fault.New(fault.NotFound, "read first metadata", m.Dir, err)
	}
	defer root.Close()
	text, err := root.ReadFile(order)
	if err != nil {
		return nil, fault.New(fault.NotFound, "read first metadata", m.Dir, err)
	}
	var keys []string
	if err := json.Unmarshal(text, &keys); err != nil {
		return nil, fault.New(fault.Invalid, "read first metadata", m.Dir, err)
	}
	writes := make([]repository.Write, 0, len(keys))
	for _, key := range keys {
		body, err := root.ReadFile(filepath.FromSlash(key))
		if err != nil {
			return nil, fault.New(fault.NotFound, "read first metadata", key, err)
		}
		writes = append(writes, repository.Write{Key: key, Body: body})
	}
	return writes, nil
}
