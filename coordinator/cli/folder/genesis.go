package folder

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// create makes keys and metadata, and pending.json unless they are whole.
func (m *Made) create(ctx context.Context, o InitOptions) (w waiting, err error) {
	if len(o.Teams) == 0 {
		return w, fault.Newf(fault.Invalid, opInit, o.Fleet.Name, "no team would be able to publish").WithHint("name one with --team")
	}
	store, err := OpenBucket(ctx, o.Fleet)
	if err != nil {
		return w, err
	}
	if err := m.vacant(ctx, store); err != nil {
		return w, err
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "keys"), 0o700); err != nil {
		return w, fault.New(fault.Denied, "make folder", o.Dir, err)
	}
	genesis, root, err := m.genesis(ctx, o)
	if err != nil {
		return w, err
	}
	w.Fleet = o.Fleet
	if w.Ceremony, err = ceremony.Begin(genesis); err != nil {
		return w, err
	}
	if root != nil {
		_, err = w.Ceremony.Sign(root)
		return w, err
	}
	if w.Raw, err = w.Ceremony.Encode(); err != nil {
		return w, err
	}
	text, err := json.Marshal(w)
	if err != nil {
		return w, fault.New(fault.Internal, "write", pendingName, err)
	}
	return w, cas.WriteFile(filepath.Join(m.Dir, pendingName), text, 0o600)
}

// genesis makes or finds the keys, and root and policy that name them. root is the
// key that signs here; nil when custodians do.
func (m *Made) genesis(ctx context.Context, o InitOptions) (g repository.Genesis, root *signer.Signer, err error) {
	init := repository.InitOptions{
		Fleet: o.Fleet.Name, Now: o.Now, RootThreshold: o.Threshold, PolicyThreshold: o.PolicyThreshold, Holders: map[string]string{},
	}
	holding := func(hs []ceremony.Holding) (keys []crypto.PublicKey, err error) {
		for _, h := range hs {
			id, err := repository.KeyID(h.Key)
			if err != nil {
				return nil, err
			}
			init.Holders[id] = h.Holder
			keys = append(keys, h.Key)
		}
		return keys, nil
	}
	if len(o.Root) == 0 {
		if root, err = m.key(ctx, "root", nil); err != nil {
			return g, nil, err
		}
		init.RootKeys = []crypto.PublicKey{root.Public()}
	} else if init.RootKeys, err = holding(o.Root); err != nil {
		return g, nil, err
	}
	if init.PolicyKeys, err = holding(o.Policy); err != nil {
		return g, nil, err
	}
	coordinator, err := m.key(ctx, "coordinator", o.Fleet.Keys.Coordinator)
	if err != nil {
		return g, nil, err
	}
	init.Coordinator = coordinator.Public()
	if init.Timestamp, err = holding(o.Stamps); err != nil {
		return g, nil, err
	}
	if !slices.Contains(o.Fleet.Keys.Timestamp, "none") {
		stamp, err := m.key(ctx, "timestamp", o.Fleet.Keys.Timestamp)
		if err != nil {
			return g, nil, err
		}
		init.Timestamp = append(init.Timestamp, stamp.Public())
	}
	authority, err := m.key(ctx, "device-ca", o.Fleet.Keys.DeviceCA)
	if err != nil {
		return g, nil, err
	}
	if init.DeviceCA, err = m.deviceCA(authority, o.Now); err != nil {
		return g, nil, err
	}
	if init.AuditKey, err = m.auditKey(); err != nil {
		return g, nil, err
	}
	for _, t := range o.Teams {
		team := repository.Team{Name: t.Name, Threshold: t.Threshold}
		if team.Keys, err = holding(t.Keys); err != nil {
			return g, nil, err
		}
		if len(t.Keys) == 0 {
			key, err := m.key(ctx, "publisher-"+string(t.Name), nil)
			if err != nil {
				return g, nil, err
			}
			team.Keys = []crypto.PublicKey{key.Public()}
		}
		init.Teams = append(init.Teams, team)
	}
	g, err = repository.Init(init)
	return g, root, err
}

// key is the key that refs name, or the folder's of that name, made if absent.
func (m *Made) key(ctx context.Context, name string, refs []string) (*signer.Signer, error) {
	if len(refs) > 0 {
		return keyref.Open(ctx, refs[0], keyref.Options{})
	}
	path := m.KeyPath(name)
	if _, err := os.Stat(path); err == nil {
		return signer.Load(ctx, path)
	}
	m.Keys = append(m.Keys, name)
	return signer.Generate(path)
}

// deviceCA is the certificate in PEM that members' identities are issued under:
// the folder's, or a new one.
func (m *Made) deviceCA(key *signer.Signer, now time.Time) ([]byte, error) {
	path := filepath.Join(m.Dir, "device-ca.crt")
	if b, err := os.ReadFile(path); err == nil {
		return b, nil
	}
	text, err := DeviceCA(m.Name, key, now)
	if err != nil {
		return nil, err
	}
	return text, cas.WriteFile(path, text, 0o644)
}

// auditKey is the public key of the audit log: the folder's, or a new one.
func (m *Made) auditKey() (string, error) {
	path := m.auditPath("audit")
	if _, err := os.Stat(path); err == nil {
		_, public, err := ledger.LoadKey(path, m.Name)
		return public, err
	}
	private, public, err := ledger.NewKey(m.Name)
	if err != nil {
		return "", err
	}
	m.Keys = append(m.Keys, "audit")
	return public, cas.WriteFile(path, []byte(private+"\n"), 0o600)
}

func (f Folder) auditPath(name string) string { return filepath.Join(f.Dir, "keys", name+".key") }

// NextAuditKey makes the audit log's next key in a file of its own, audit-2.key;
// one that an unfinished ceremony left there is used. listed is the policy's.
func (f Folder) NextAuditKey(listed string) (public, path string, err error) {
	for n := 2; ; n++ {
		path = f.auditPath(fmt.Sprintf("audit-%d", n))
		if _, err := os.Stat(path); err == nil {
			if _, public, err = ledger.LoadKey(path, f.Name); err != nil || public != strings.TrimSpace(listed) {
				return public, path, err
			}
			continue
		}
		private, public, err := ledger.NewKey(f.Name)
		if err != nil {
			return "", "", err
		}
		return public, path, cas.WriteFile(path, []byte(private+"\n"), 0o600)
	}
}

// AuditKeyFile is the file of the audit log's key that a ceremony brings; "" when
// the log's key stays. Where the folder has none, it is the one to put it into.
func (f Folder) AuditKeyFile(c *ceremony.Ceremony) string {
	public := strings.TrimSpace(string(c.Targets[trust.PathAuditKey]))
	if public == "" {
		return ""
	}
	for n := 2; ; n++ {
		path := f.auditPath(fmt.Sprintf("audit-%d", n))
		if _, has, err := ledger.LoadKey(path, f.Name); err == nil && has == public || fault.Is(err, fault.NotFound) {
			return path
		}
	}
}
