package repository

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// InitOptions says who holds a new fleet's keys.
type InitOptions struct {
	Fleet string // the fleet's name
	Now   time.Time

	Root          []signature.Signer // root keys that sign here
	RootKeys      []crypto.PublicKey // root keys that sign elsewhere, with [Countersign]
	RootThreshold int                // default: more than half of all root keys
	Policy        []signature.Signer // keys of the policy that sign here; default Root
	PolicyKeys    []crypto.PublicKey // keys of the policy that sign elsewhere; default RootKeys
	// PolicyThreshold is how many of them must sign: by default as many as of
	// root's, when they are the same, and else more than half.
	PolicyThreshold int
	Teams           []Team            // publishers
	Holders         map[string]string // key id -> who holds it, for people

	Coordinator crypto.PublicKey // signs directives and snapshots
	// Timestamp is who may say that a snapshot is the newest, each alone: the
	// coordinator's timestamp key, the heartbeat function's, or both. Default:
	// Coordinator.
	Timestamp []crypto.PublicKey
	DeviceCA  []byte // certificates in PEM that members are issued under; may be set later
	AuditKey  string // public key of the audit log, as [ledger.NewKey] makes it; may be set later

	Lifetimes Lifetimes
}

// Team is a publisher and its keys.
type Team struct {
	Name      fleet.Team
	Keys      []crypto.PublicKey // P-256: the same keys sign the OMS bundles
	Threshold int                // default 1; 2 asks for a second person's approval
}

// Genesis is a new fleet.
type Genesis struct {
	Root    []byte       // root.json
	Pin     fleet.Digest // of Root: what members pin
	Policy  []byte       // targets.json
	Missing int          // signatures Root still needs, by [Countersign]
	Writes  []Write
}

// Init makes root and policy of a new fleet. The coordinator makes the rest at
// its first directive; publishers make their roles when they first publish.
func Init(o InitOptions) (Genesis, error) {
	const op = "make fleet"
	if _, err := fleet.ParseGroup(o.Fleet); err != nil {
		return Genesis{}, fault.New(fault.Invalid, op, o.Fleet, err).WithHint("a fleet's name is 1 to 63 of a-z 0-9 . _ -")
	}
	if o.Coordinator == nil || len(o.Root)+len(o.RootKeys) == 0 {
		return Genesis{}, fault.Newf(fault.Invalid, op, o.Fleet, "a root key and the coordinator's key are needed")
	}
	o.Lifetimes = o.Lifetimes.orDefault()
	if len(o.Timestamp) == 0 {
		o.Timestamp = []crypto.PublicKey{o.Coordinator}
	}
	same := len(o.Policy)+len(o.PolicyKeys) == 0
	if same {
		o.Policy, o.PolicyKeys = o.Root, o.RootKeys
	}
	if o.RootThreshold == 0 {
		o.RootThreshold = (len(o.Root)+len(o.RootKeys))/2 + 1
	}
	switch {
	case o.PolicyThreshold != 0:
	case same:
		o.PolicyThreshold = o.RootThreshold
	default:
		o.PolicyThreshold = (len(o.Policy)+len(o.PolicyKeys))/2 + 1
	}
	g, err := o.root()
	if err != nil {
		return Genesis{}, fault.New(fault.Invalid, op, o.Fleet, err)
	}
	policyWrites, err := o.policy()
	if err != nil {
		return Genesis{}, wrap(err, op, o.Fleet)
	}
	g.Policy = policyWrites[len(policyWrites)-1].Body
	g.Writes = append([]Write{{Key: trust.MetadataKey(metadata.ROOT, 1), Body: g.Root}}, policyWrites...)
	return g, nil
}

func (o InitOptions) root() (Genesis, error) {
	m := metadata.Root(expiry(o.Now, o.Lifetimes.Root))
	rootKeys, err := publicKeys(o.Root)
	if err != nil {
		return Genesis{}, err
	}
	rootKeys = append(rootKeys, o.RootKeys...)
	policyKeys, err := publicKeys(o.Policy)
	if err != nil {
		return Genesis{}, err
	}
	for _, role := range []struct {
		name      string
		threshold int
		keys      []crypto.PublicKey
	}{
		{metadata.ROOT, o.RootThreshold, rootKeys}, {metadata.TARGETS, o.PolicyThreshold, append(policyKeys, o.PolicyKeys...)},
		{metadata.SNAPSHOT, 1, []crypto.PublicKey{o.Coordinator}}, {metadata.TIMESTAMP, 1, o.Timestamp},
	} {
		if err := setKeys(m, role.name, role.threshold, role.keys); err != nil {
			return Genesis{}, err
		}
	}
	setHolders(&m.Signed.UnrecognizedFields, o.Holders, maps.Keys(m.Signed.Keys))
	raw, err := sign(m, o.Root...)
	if err != nil {
		return Genesis{}, err
	}
	return Genesis{Root: raw, Pin: fleet.DigestOf(raw), Missing: max(0, o.RootThreshold-len(o.Root))}, nil
}

func (o InitOptions) policy() ([]Write, error) {
	m := metadata.Targets(expiry(o.Now, o.Lifetimes.Policy))
	m.Signed.UnrecognizedFields = map[string]any{trust.FieldFleet: o.Fleet}
	m.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	change := PolicyChange{Teams: o.Teams, Coordinator: o.Coordinator, DeviceCA: o.DeviceCA, AuditKey: o.AuditKey, Revoked: &trust.Revoked{}, Holders: o.Holders}
	return change.apply(m, o.Policy)
}

// PolicyChange is what the keepers of the policy change.
type PolicyChange struct {
	Teams       []Team           // added, or their keys replaced
	Remove      []fleet.Team     // taken out: nothing they list runs any more
	Coordinator crypto.PublicKey // the key directives are signed with
	DeviceCA    []byte           // certificates in PEM
	AuditKey    string           // public key of the audit log
	Revoked     *trust.Revoked
	// SigstoreRoot and Keyless are the targets [trust.PathSigstoreRoot] and
	// [trust.PathKeyless]; empty and not nil takes them out.
	SigstoreRoot, Keyless []byte
	Holders               map[string]string // key id -> who holds it; added to those known
}

// NextPolicy makes the policy's next version from the current one.
func NextPolicy(current []byte, change PolicyChange, now time.Time, life Lifetimes, signers ...signature.Signer) ([]Write, error) {
	m, err := trust.Decode[metadata.TargetsType](current)
	if err != nil {
		return nil, trust.Violated(trust.RuleFormat, "change policy", "", err)
	}
	m.Signed.Version++
	m.Signed.Expires = expiry(now, life.orDefault().Policy)
	m.ClearSignatures()
	writes, err := change.apply(m, signers)
	if err != nil {
		return nil, wrap(err, "change policy", "")
	}
	return writes, nil
}

// apply changes m, signs it and lists the writes.
func (c PolicyChange) apply(m *metadata.Metadata[metadata.TargetsType], signers []signature.Signer) ([]Write, error) {
	d := m.Signed.Delegations
	for _, t := range c.Teams {
		if _, err := fleet.ParseTeam(string(t.Name)); err != nil {
			return nil, err
		}
		for _, key := range t.Keys {
			if err := p256(key); err != nil {
				return nil, fmt.Errorf("team %s: %w", t.Name, err)
			}
		}
		if err := delegate(d, trust.RoleOf(t.Name), max(1, t.Threshold), trust.TeamPaths(t.Name), t.Keys...); err != nil {
			return nil, err
		}
	}
	for _, t := range c.Remove {
		d.Roles = slices.DeleteFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == trust.RoleOf(t) })
	}
	if c.Coordinator != nil {
		if err := delegate(d, trust.RoleFleet, 1, "fleet/*", c.Coordinator); err != nil {
			return nil, err
		}
	}
	dropUnusedKeys(d)
	setHolders(&m.Signed.UnrecognizedFields, c.Holders, maps.Keys(d.Keys))
	var writes []Write
	list := func(path string, body []byte) {
		sum := fleet.DigestOf(body)
		m.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(body)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: path}
		writes = append(writes, Write{Key: trust.TargetKey(path, sum), Body: body})
	}
	if c.DeviceCA != nil {
		list(trust.PathDeviceCA, c.DeviceCA)
	}
	if c.AuditKey != "" {
		if _, err := ledger.ParseKey(c.AuditKey); err != nil {
			return nil, err
		}
		list(trust.PathAuditKey, []byte(strings.TrimSuffix(c.AuditKey, "\n")+"\n"))
	}
	for path, body := range map[string][]byte{trust.PathSigstoreRoot: c.SigstoreRoot, trust.PathKeyless: c.Keyless} {
		if len(body) > 0 {
			list(path, body)
		} else if body != nil {
			delete(m.Signed.Targets, path)
		}
	}
	if c.Revoked != nil {
		body, err := json.Marshal(c.Revoked)
		if err != nil {
			return nil, err
		}
		list(trust.PathRevoked, body)
	}
	raw, err := sign(m, signers...)
	if err != nil {
		return nil, err
	}
	return append(writes, Write{Key: trust.MetadataKey(metadata.TARGETS, m.Signed.Version), Body: raw}), nil
}

// sign adds the signers' signatures and encodes.
func sign[T metadata.Roles](m *metadata.Metadata[T], signers ...signature.Signer) ([]byte, error) {
	for _, s := range signers {
		h := heard{Signer: s}
		if _, err := m.Sign(&h); err != nil {
			return nil, fmt.Errorf("sign: %w", cmp.Or(h.err, err))
		}
	}
	return m.ToBytes(false)
}

// heard is a signer that keeps why it did not sign, which go-tuf does not tell: it
// names the key, whether to try again, and what to do.
type heard struct {
	signature.Signer
	err error
}

// SignMessage signs.
func (h *heard) SignMessage(message io.Reader, opts ...signature.SignOption) (sig []byte, err error) {
	sig, h.err = h.Signer.SignMessage(message, opts...)
	return sig, h.err
}

// delegate gives a delegated role exactly these keys and this path.
func delegate(d *metadata.Delegations, role string, threshold int, path string, keys ...crypto.PublicKey) error {
	if err := enough(role, threshold, keys); err != nil {
		return err
	}
	dr := metadata.DelegatedRole{Name: role, Threshold: threshold, Terminating: true, Paths: []string{path}}
	for _, key := range keys {
		k, err := metadata.KeyFromPublicKey(key)
		if err != nil {
			return err
		}
		id, err := k.ID()
		if err != nil {
			return err
		}
		d.Keys[id] = k
		dr.KeyIDs = append(dr.KeyIDs, id)
	}
	i := slices.IndexFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == role })
	if i < 0 {
		d.Roles = append(d.Roles, dr)
	} else {
		d.Roles[i] = dr
	}
	return nil
}

func dropUnusedKeys(d *metadata.Delegations) {
	for id := range d.Keys {
		if !slices.ContainsFunc(d.Roles, func(r metadata.DelegatedRole) bool { return slices.Contains(r.KeyIDs, id) }) {
			delete(d.Keys, id)
		}
	}
}

// p256 refuses keys that the metadata library would label P-256 although they are not.
func p256(key crypto.PublicKey) error {
	if k, ok := key.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return fmt.Errorf("a key of type %T is not ECDSA P-256", key)
	}
	return nil
}

func publicKeys(signers []signature.Signer) ([]crypto.PublicKey, error) {
	var out []crypto.PublicKey
	for _, s := range signers {
		pub, err := s.PublicKey()
		if err != nil {
			return nil, err
		}
		out = append(out, pub)
	}
	return out, nil
}

// KeyID is the id that TUF metadata gives a public key.
func KeyID(pub crypto.PublicKey) (string, error) {
	k, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		return "", err
	}
	return k.ID()
}

func keyID(s signature.Signer) (string, error) {
	pub, err := s.PublicKey()
	if err != nil {
		return "", err
	}
	return KeyID(pub)
}

// expiry is whole seconds in UTC, as TUF wants.
func expiry(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(time.Second)
}
