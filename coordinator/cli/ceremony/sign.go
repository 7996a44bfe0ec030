package ceremony

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Key is one of the keys of a role.
type Key struct {
	ID     string `json:"id"`
	Holder string `json:"holder,omitempty"` // "" when nobody said
	Signed bool   `json:"signed,omitempty"`
	Broken bool   `json:"broken,omitempty"` // there is a signature, and it does not fit what it signs
}

// String is the holder and the beginning of the id.
func (k Key) String() string {
	if k.Holder == "" {
		return Short(k.ID)
	}
	return k.Holder + " (" + Short(k.ID) + ")"
}

// Short is the beginning of a key id.
func Short(id string) string { return id[:min(12, len(id))] }

// Party is keys of which enough must sign one of the files.
type Party struct {
	File      string `json:"file"` // "root" or "policy"
	Why       string `json:"why"`  // "as the root before it says"
	Threshold int    `json:"threshold"`
	Keys      []Key  `json:"keys"`
}

// Have is how many of its keys have signed.
func (p Party) Have() int {
	n := 0
	for _, k := range p.Keys {
		if k.Signed {
			n++
		}
	}
	return n
}

// Missing is how many signatures it lacks.
func (p Party) Missing() int { return max(0, p.Threshold-p.Have()) }

// Lacks is "2 of ana (…), ben (…)", or "" when enough have signed.
func (p Party) Lacks() string {
	if p.Missing() == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %d more of %s", p.File, p.Missing(), names(p.Keys, false))
}

// names lists the keys that have signed, or that have not.
func names(keys []Key, signed bool) string {
	var out []string
	for _, k := range keys {
		if k.Signed == signed {
			out = append(out, k.String())
		}
	}
	return strings.Join(out, ", ")
}

// all lists the keys, signed or not.
func all(keys []Key) string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.String()
	}
	return strings.Join(out, ", ")
}

// Parties is who must sign. A root is signed by enough keys of the one before and
// by enough of its own; a policy as the newest root says.
func (c *Ceremony) Parties() []Party {
	var out []Party
	if n := c.next.root; n != nil {
		own := party("root", "as it says itself", n, metadata.ROOT, n)
		if b := c.before.root; b != nil {
			old := party("root", "as the root before it says", b, metadata.ROOT, n)
			if slices.Equal(old.Keys, own.Keys) && old.Threshold == own.Threshold {
				old.Why, own.Keys = "as the root before it and it say", nil
			}
			out = append(out, old)
		}
		if own.Keys != nil {
			out = append(out, own)
		}
	}
	if p := c.next.policy; p != nil {
		root := c.next.root
		if root == nil {
			root = c.before.root
		}
		out = append(out, party("policy", "as root says", root, metadata.TARGETS, p))
	}
	return out
}

// party is the keys of a role of root, with which of them signed m.
func party[T metadata.Roles](file, why string, root *metadata.Metadata[metadata.RootType], role string, m *metadata.Metadata[T]) Party {
	p := Party{File: file, Why: why}
	r := root.Signed.Roles[role]
	if r == nil {
		return p
	}
	p.Threshold = r.Threshold
	holders := Holders(root.Signed.UnrecognizedFields)
	for _, id := range r.KeyIDs {
		k := Key{ID: id, Holder: holders[id], Signed: signedBy(root.Signed.Keys[id], id, m)}
		k.Broken = !k.Signed && slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		p.Keys = append(p.Keys, k)
	}
	return p
}

// Sound refuses a ceremony with a signature that does not fit what it signs: the
// file, or the signature, was changed after it was made.
func (c *Ceremony) Sound() error {
	var broken []string
	for _, p := range c.Parties() {
		for _, k := range p.Keys {
			if text := fmt.Sprintf("the signature of %s does not fit the %s that it signs", k, p.File); k.Broken && !slices.Contains(broken, text) {
				broken = append(broken, text)
			}
		}
	}
	if broken == nil {
		return nil
	}
	return trust.Violated(c.rule(), "verify ceremony", c.File(), errors.New(strings.Join(broken, "; "))).WithHint("%s", again)
}

// signedBy reports whether a key signed m.
func signedBy[T metadata.Roles](key *metadata.Key, id string, m *metadata.Metadata[T]) bool {
	if key == nil || !slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id }) {
		return false
	}
	one := metadata.Root()
	if err := one.Signed.AddKey(key, metadata.ROOT); err != nil {
		return false
	}
	one.Signed.Roles[metadata.ROOT].Threshold = 1
	return one.VerifyDelegate(metadata.ROOT, m) == nil
}

// Holders is who holds which key, as root or policy say it.
func Holders(fields map[string]any) map[string]string {
	out := map[string]string{}
	names, _ := fields[trust.FieldHolders].(map[string]any)
	for id, v := range names {
		if name, ok := v.(string); ok {
			out[id] = name
		}
	}
	return out
}

// Complete refuses a ceremony that not enough have signed, and says who is missing.
func (c *Ceremony) Complete() error {
	var lacks []string
	for _, p := range c.Parties() {
		if l := p.Lacks(); l != "" {
			lacks = append(lacks, l)
		}
	}
	if lacks != nil {
		return trust.Violated(c.rule(), "finish ceremony", c.File(), fmt.Errorf("signatures are missing; %s", strings.Join(lacks, "; "))).
			WithHint("pass the file to one of them: modelfleet key sign %s --key FILE", c.File())
	}
	return nil
}

// rule is the one that refuses what is not signed.
func (c *Ceremony) rule() trust.Rule {
	if c.next.root != nil {
		return trust.RuleRoot
	}
	return trust.RulePolicy
}

// Sign adds a key's signature to each file that it must sign, and lists those. It
// is an error when there is none; signing again changes nothing.
func (c *Ceremony) Sign(s signature.Signer) (files []string, err error) {
	const op = "sign ceremony"
	pub, err := s.PublicKey()
	if err != nil {
		return nil, err
	}
	id, err := repository.KeyID(pub)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, c.File(), err)
	}
	called, signed := false, *c
	for _, p := range c.Parties() {
		i := slices.IndexFunc(p.Keys, func(k Key) bool { return k.ID == id })
		if i < 0 {
			continue
		}
		called = true
		if p.Keys[i].Signed || slices.Contains(files, p.File) {
			continue
		}
		part := &signed.Next.Root
		if p.File == "policy" {
			part = &signed.Next.Policy
		}
		if *part, err = repository.Countersign(*part, s); err != nil {
			return nil, err
		}
		files = append(files, p.File)
	}
	if !called {
		var who []string
		for _, p := range c.Parties() {
			who = append(who, fmt.Sprintf("%s (%d) by %s", p.File, p.Threshold, all(p.Keys)))
		}
		return nil, trust.Violated(c.rule(), op, c.File(), fmt.Errorf("key %s is none of those that must sign: %s", Short(id), strings.Join(who, "; "))).
			WithHint("give the key of one of them with --key; `modelfleet key show FILE` says a key's id")
	}
	if err := signed.check(); err != nil {
		return nil, fault.New(fault.Internal, op, c.File(), err)
	}
	*c = signed
	return files, nil
}

// Merge adds the signatures that another copy of the ceremony collected. A copy
// in which anything else differs is refused.
func (c *Ceremony) Merge(name string, o *Ceremony) error {
	if c.Words() != o.Words() {
		return trust.Violated(c.rule(), "merge ceremony", name, fmt.Errorf("it asks to sign %s, the first asks to sign %s", o.Words(), c.Words())).
			WithHint("%s", again)
	}
	merged := *c
	var err error
	if merged.Next.Root, err = join(c, c.next.root, o.next.root, c.Next.Root); err == nil {
		merged.Next.Policy, err = join(c, c.next.policy, o.next.policy, c.Next.Policy)
	}
	if err == nil {
		err = merged.check()
	}
	if err != nil {
		return fault.New(fault.Invalid, "merge ceremony", name, err)
	}
	*c = merged
	return nil
}

// join is raw, which a was read from, with the good signatures of b that it lacks.
func join[T metadata.Roles](c *Ceremony, a, b *metadata.Metadata[T], raw json.RawMessage) (json.RawMessage, error) {
	if a == nil || b == nil {
		return raw, nil
	}
	m, err := trust.Decode[T](raw)
	if err != nil {
		return nil, err
	}
	added := false
	for _, s := range b.Signatures {
		key := c.key(s.KeyID)
		if signedBy(key, s.KeyID, a) || !signedBy(key, s.KeyID, b) {
			continue
		}
		m.Signatures = append(slices.DeleteFunc(m.Signatures, func(x metadata.Signature) bool { return x.KeyID == s.KeyID }), s)
		added = true
	}
	if !added {
		return raw, nil
	}
	return m.ToBytes(false)
}

// key is the public key of an id, as the roots know it.
func (c *Ceremony) key(id string) *metadata.Key {
	for _, root := range []*metadata.Metadata[metadata.RootType]{c.next.root, c.before.root} {
		if root != nil && root.Signed.Keys[id] != nil {
			return root.Signed.Keys[id]
		}
	}
	return nil
}
