package repository

import (
	"cmp"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// RootChange is what the keepers of root change; nil and zero fields stay.
type RootChange struct {
	Root            []crypto.PublicKey
	Threshold       int // of root
	Policy          []crypto.PublicKey
	PolicyThreshold int
	Snapshot        []crypto.PublicKey
	Timestamp       []crypto.PublicKey
	Holders         map[string]string // key id -> who holds it; added to those known
}

// NextRoot makes the next root from the current one. It must be signed by
// enough of the old root keys and enough of the new ones; more may sign
// elsewhere, with [Countersign]. ok reports whether it is complete.
func NextRoot(current []byte, change RootChange, now time.Time, life Lifetimes, signers ...signature.Signer) (next []byte, ok bool, err error) {
	const op = "change root"
	prev, err := trust.Decode[metadata.RootType](current)
	if err != nil {
		return nil, false, trust.Violated(trust.RuleRoot, op, "", err)
	}
	m, err := trust.Decode[metadata.RootType](current)
	if err != nil {
		return nil, false, trust.Violated(trust.RuleRoot, op, "", err)
	}
	m.Signed.Version++
	m.Signed.Expires = expiry(now, life.orDefault().Root)
	m.ClearSignatures()
	for _, c := range []struct {
		role      string
		threshold int
		keys      []crypto.PublicKey
	}{
		{metadata.ROOT, change.Threshold, change.Root}, {metadata.TARGETS, change.PolicyThreshold, change.Policy},
		{metadata.SNAPSHOT, 0, change.Snapshot}, {metadata.TIMESTAMP, 0, change.Timestamp},
	} {
		role, err := m.Signed.Roles[c.role], error(nil)
		switch {
		case c.keys != nil:
			err = setKeys(m, c.role, cmp.Or(c.threshold, role.Threshold), c.keys)
		case c.threshold > len(role.KeyIDs):
			err = fmt.Errorf("role %s has a threshold of %d and %d keys", c.role, c.threshold, len(role.KeyIDs))
		case c.threshold > 0:
			role.Threshold = c.threshold
		}
		if err != nil {
			return nil, false, fault.New(fault.Invalid, op, c.role, err)
		}
	}
	setHolders(&m.Signed.UnrecognizedFields, change.Holders, maps.Keys(m.Signed.Keys))
	raw, err := sign(m, signers...)
	if err != nil {
		return nil, false, wrap(err, op, metadata.ROOT)
	}
	_, err = successor(prev, raw)
	return raw, err == nil, nil
}

// Countersign adds a signature to metadata that needs several: a root, a
// policy, or a publisher's role whose threshold is above one. Its first version
// must be put into the bucket only once it is complete.
func Countersign(raw []byte, s signature.Signer) ([]byte, error) {
	var kind struct {
		Signed struct {
			Type string `json:"_type"`
		} `json:"signed"`
	}
	err := json.Unmarshal(raw, &kind)
	var out []byte
	switch {
	case err != nil:
	case kind.Signed.Type == metadata.ROOT:
		out, err = addSignature[metadata.RootType](raw, s)
	case kind.Signed.Type == metadata.TARGETS:
		out, err = addSignature[metadata.TargetsType](raw, s)
	default:
		err = fmt.Errorf("metadata of type %q is signed by one key", kind.Signed.Type)
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "add signature", "", err)
	}
	return out, nil
}

func addSignature[T metadata.Roles](raw []byte, s signature.Signer) ([]byte, error) {
	m, err := trust.Decode[T](raw)
	if err != nil {
		return nil, err
	}
	id, err := keyID(s)
	if err != nil {
		return nil, err
	}
	m.Signatures = slices.DeleteFunc(m.Signatures, func(x metadata.Signature) bool { return x.KeyID == id })
	return sign(m, s)
}

// setKeys gives a top role exactly these keys.
func setKeys(m *metadata.Metadata[metadata.RootType], role string, threshold int, keys []crypto.PublicKey) error {
	if err := enough(role, threshold, keys); err != nil {
		return err
	}
	for _, id := range slices.Clone(m.Signed.Roles[role].KeyIDs) {
		if err := m.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if _, ed := key.(ed25519.PublicKey); !ed || role != metadata.ROOT {
			if err := p256(key); err != nil {
				return fmt.Errorf("role %s: %w", role, err)
			}
		}
		k, err := metadata.KeyFromPublicKey(key)
		if err != nil {
			return err
		}
		if err := m.Signed.AddKey(k, role); err != nil {
			return err
		}
	}
	m.Signed.Roles[role].Threshold = threshold
	return nil
}

// enough refuses a threshold that the keys can never reach, or that one of them
// would reach twice.
func enough(role string, threshold int, keys []crypto.PublicKey) error {
	seen := map[string]bool{}
	for _, key := range keys {
		id, err := KeyID(key)
		if err != nil {
			return err
		}
		if seen[id] {
			return fmt.Errorf("role %s is given key %s twice", role, short(id))
		}
		seen[id] = true
	}
	if threshold < 1 || threshold > len(keys) {
		return fmt.Errorf("role %s has a threshold of %d and %d keys", role, threshold, len(keys))
	}
	return nil
}

// setHolders adds names to those known, and forgets those of keys that are gone.
func setHolders(fields *map[string]any, names map[string]string, keys iter.Seq[string]) {
	all, _ := (*fields)[trust.FieldHolders].(map[string]any)
	next := map[string]any{}
	for id := range keys {
		if name := names[id]; name != "" {
			next[id] = name
		} else if old, ok := all[id]; ok {
			next[id] = old
		}
	}
	if *fields == nil {
		*fields = map[string]any{}
	}
	if (*fields)[trust.FieldHolders] = next; len(next) == 0 {
		delete(*fields, trust.FieldHolders)
	}
}

// OnlineKeysChanged is [trust.OnlineKeysChanged] of any root since a version; then
// members begin anew, too.
func (r *Repository) OnlineKeysChanged(since int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var last *metadata.Metadata[metadata.RootType]
	for _, raw := range r.roots {
		m, err := trust.Decode[metadata.RootType](raw)
		if err != nil || m.Signed.Version < since {
			continue
		}
		if last != nil && trust.OnlineKeysChanged(last.Signed, m.Signed) {
			return true
		}
		last = m
	}
	return false
}
