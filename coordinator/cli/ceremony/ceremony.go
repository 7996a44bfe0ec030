// Package ceremony changes who holds a fleet's keys. Root and policy are signed
// by people whose keys never meet on one machine, so a change travels between
// them as one file, a [Ceremony]:
//
//	plan, err := ceremony.Change{...}.Plan(now)  // who may sign what, from now on
//	c, err := ceremony.Make(before, plan, now) // on the desk of whoever proposes it
//	c.Describe()                               // ... in words, for each who signs
//	added, err := c.Sign(key)                  // on each custodian's machine
//	writes, err := c.Writes()                  // once enough have; else it says who is missing
//
// The file holds the next root.json or targets.json or both, the files that the
// policy lists anew, and what they replace, so that whoever signs can be told the
// difference. It holds no secret, and it need not be guarded on its way: a changed
// byte breaks the signatures. Nothing here reads a clock or a bucket.
package ceremony

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Schema is the version of the file.
const Schema = 1

// MaxBytes caps the file.
const MaxBytes = 4 << 20

// Metadata is a root and a policy, as bytes.
type Metadata struct {
	Root   json.RawMessage `json:"root,omitempty"`
	Policy json.RawMessage `json:"policy,omitempty"`
}

// Ceremony is a change of root or policy on its way from key to key.
type Ceremony struct {
	Schema  int               `json:"schema"`
	Before  Metadata          `json:"before,omitzero"`   // what it replaces; nothing for a new fleet
	Next    Metadata          `json:"next"`              // what is to be signed; an absent one stays
	Targets map[string][]byte `json:"targets,omitempty"` // files that the policy lists anew

	before, next parsed
	file         string // where it was read from, or is to be written
}

// parsed is Metadata as it is read; nil where there is none.
type parsed struct {
	root   *metadata.Metadata[metadata.RootType]
	policy *metadata.Metadata[metadata.TargetsType]
}

func (m Metadata) parse() (p parsed, err error) {
	if m.Root != nil {
		if p.root, err = trust.Decode[metadata.RootType](m.Root); err == nil {
			err = ownNames(p.root.Signed.Keys)
		}
		if err != nil {
			return p, fmt.Errorf("root: %w", err)
		}
	}
	if m.Policy != nil {
		if p.policy, err = trust.Decode[metadata.TargetsType](m.Policy); err != nil {
			return p, fmt.Errorf("policy: %w", err)
		}
		if p.policy.Signed.Delegations == nil {
			return p, errors.New("policy: it delegates nothing")
		}
		if err := ownNames(p.policy.Signed.Delegations.Keys); err != nil {
			return p, fmt.Errorf("policy: %w", err)
		}
	}
	return p, nil
}

// ownNames refuses a key under another key's id: people judge keys by their ids.
func ownNames(keys map[string]*metadata.Key) error {
	for id, k := range keys {
		bare := metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: k.Value, UnrecognizedFields: k.UnrecognizedFields}
		if own, err := bare.ID(); err != nil || own != id {
			return fmt.Errorf("what it calls key %s is another key", Short(id))
		}
	}
	return nil
}

const opRead = "read ceremony"

// Parse reads a file and checks that its parts belong together. name is the
// file's, for messages.
func Parse(name string, raw []byte) (*Ceremony, error) {
	if len(raw) > MaxBytes {
		return nil, trust.Violated(trust.RuleSize, opRead, name, fmt.Errorf("%d bytes, at most %d", len(raw), MaxBytes)).WithHint(again)
	}
	c := Ceremony{file: name}
	err := oms.DecodeStrict(raw, &c)
	switch {
	case err == nil && c.Schema != Schema:
		err = fmt.Errorf("schema %d, this program reads %d", c.Schema, Schema)
	case err == nil:
		err = c.check()
	}
	if err != nil {
		return nil, trust.Violated(trust.RuleFormat, opRead, name, err).WithHint(again)
	}
	return &c, nil
}

// again is the next move when a file is no good.
const again = "it was damaged or changed on its way: ask for it again, or have the change proposed anew"

// check reads the parts and holds them to each other.
func (c *Ceremony) check() (err error) {
	if c.before, err = c.Before.parse(); err != nil {
		return fmt.Errorf("before: %w", err)
	}
	if c.next, err = c.Next.parse(); err != nil {
		return fmt.Errorf("next: %w", err)
	}
	b, n := c.before, c.next
	if (b.root == nil) != (b.policy == nil) {
		return errors.New("of what it replaces only one of root and policy is there")
	}
	if n.root == nil && n.policy == nil || b.root == nil && (n.root == nil || n.policy == nil) {
		return errors.New("it changes nothing, or begins a fleet without root or policy")
	}
	if b.root != nil {
		if err := b.root.VerifyDelegate(metadata.ROOT, b.root); err != nil {
			return fmt.Errorf("the root before is not signed by its own keys: %w", err)
		}
		if err := b.root.VerifyDelegate(metadata.TARGETS, b.policy); err != nil {
			return fmt.Errorf("the policy before is not signed as the root before says: %w", err)
		}
	}
	if n.root != nil {
		if err := follows("root", version(b.root, func(m metadata.RootType) int64 { return m.Version }), n.root.Signed.Version); err != nil {
			return err
		}
	}
	if n.policy == nil {
		return nil
	}
	if err := follows("policy", version(b.policy, func(m metadata.TargetsType) int64 { return m.Version }), n.policy.Signed.Version); err != nil {
		return err
	}
	if was, is := fleetOf(b.policy), fleetOf(n.policy); is == "" || was != "" && was != is {
		return fmt.Errorf("the policy is of fleet %q, the one before of %q", is, was)
	}
	return c.checkTargets()
}

func version[T metadata.Roles](m *metadata.Metadata[T], of func(T) int64) int64 {
	if m == nil {
		return 0
	}
	return of(m.Signed)
}

func follows(file string, before, next int64) error {
	if next != before+1 {
		return fmt.Errorf("%s version %d does not follow version %d", file, next, before)
	}
	return nil
}

// checkTargets holds the files to the policy: each is listed with its digest, and
// none that is listed anew is absent.
func (c *Ceremony) checkTargets() error {
	listed := c.next.policy.Signed.Targets
	for path, body := range c.Targets {
		if t := listed[path]; t == nil || t.VerifyLengthHashes(body) != nil {
			return fmt.Errorf("file %s is not the one that the policy lists", path)
		}
	}
	for path, t := range listed {
		if _, ok := c.Targets[path]; ok {
			continue
		}
		if c.before.policy == nil || c.before.policy.Signed.Targets[path] == nil || !c.before.policy.Signed.Targets[path].Hashes.Equal(t.Hashes) {
			return fmt.Errorf("file %s, which the policy lists anew, is not there", path)
		}
	}
	return nil
}

// Encode is the file's bytes. Metadata stands in it as it was signed.
func (c *Ceremony) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // metadata holds < and > as they are
	if err := enc.Encode(c); err != nil {
		return nil, fault.New(fault.Internal, "write ceremony", c.Fleet(), err)
	}
	return b.Bytes(), nil
}

// Fleet is the name of the fleet that is changed.
func (c *Ceremony) Fleet() string {
	if name := fleetOf(c.next.policy); name != "" {
		return name
	}
	return fleetOf(c.before.policy)
}

func fleetOf(policy *metadata.Metadata[metadata.TargetsType]) string {
	if policy == nil {
		return ""
	}
	name, _ := policy.Signed.UnrecognizedFields[trust.FieldFleet].(string)
	return name
}

// Begins reports whether the ceremony makes a new fleet.
func (c *Ceremony) Begins() bool { return c.before.root == nil }

// Name is a file name for the ceremony: what it signs, and which versions.
func (c *Ceremony) Name() string {
	name := c.Fleet()
	if c.next.root != nil {
		name += fmt.Sprintf("-root-%d", c.next.root.Signed.Version)
	}
	if c.next.policy != nil {
		name += fmt.Sprintf("-policy-%d", c.next.policy.Signed.Version)
	}
	return name + ".ceremony.json"
}

// Call says which file the ceremony is in, for messages.
func (c *Ceremony) Call(path string) { c.file = path }

// File is the file that the ceremony is in, or would be.
func (c *Ceremony) File() string { return cmp.Or(c.file, c.Name()) }

// Words is a short name for what is signed, whoever signed it so far: people who
// see the same words on two machines sign the same.
func (c *Ceremony) Words() string {
	h := sha256.New()
	for _, part := range [][]byte{unsigned(c.next.root), unsigned(c.next.policy)} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	text := strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))
	return strings.Join([]string{text[:4], text[4:8], text[8:12], text[12:16]}, "-")
}

// Is reports whether root and policy are those that the ceremony asks to sign,
// whoever signed them.
func (c *Ceremony) Is(m Metadata) bool {
	p, err := m.parse()
	return err == nil && bytes.Equal(unsigned(c.next.root), unsigned(p.root)) && bytes.Equal(unsigned(c.next.policy), unsigned(p.policy))
}

// unsigned is m without its signatures, always the same bytes; nil for nil.
func unsigned[T metadata.Roles](m *metadata.Metadata[T]) []byte {
	if m == nil {
		return nil
	}
	bare := *m
	bare.Signatures = []metadata.Signature{}
	raw, err := bare.ToBytes(false)
	if err != nil {
		return nil // it was read: it can be written
	}
	return raw
}

// Writes is what to put into the bucket, in order: files, policy, root. A reader
// between two of them sees the old root, and the newest policy that it vouches
// for. A ceremony that is not complete is refused, with who is missing.
func (c *Ceremony) Writes() ([]repository.Write, error) {
	if err := c.Complete(); err != nil {
		return nil, err
	}
	var writes []repository.Write
	for _, path := range slices.Sorted(maps.Keys(c.Targets)) {
		body := c.Targets[path]
		writes = append(writes, repository.Write{Key: trust.TargetKey(path, fleet.DigestOf(body)), Body: body})
	}
	if c.next.policy != nil {
		writes = append(writes, repository.Write{Key: trust.MetadataKey(metadata.TARGETS, c.next.policy.Signed.Version), Body: c.Next.Policy})
	}
	if c.next.root != nil {
		writes = append(writes, repository.Write{Key: trust.MetadataKey(metadata.ROOT, c.next.root.Signed.Version), Body: c.Next.Root})
	}
	return writes, nil
}
