package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// DirectiveIssued is the action of the entries that make directives valid.
const DirectiveIssued = "directive.issued"

// KeyTaken is the action of the entries that say which key signs the log from there
// on. The log's key signs for them, as for all others: who trusts it knows by them
// the keys that it had before.
const KeyTaken = "audit.key"

// The limits of an entry.
const (
	// MaxDetail is how long a detail may be to lie in the entry itself; a longer
	// one lies aside, and the entry holds its digest.
	MaxDetail = 4 << 10
	maxText   = 4 << 10 // bytes of a subject or a reason: a longer one is cut
	// MaxLeaf is what a bundle's 16-bit length can say.
	MaxLeaf = 1<<16 - 1
	// MaxAside is the size of the longest detail that is read.
	MaxAside = 64 << 20
)

// Entry is one line of the audit log: who did what to which, and why.
type Entry struct {
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`  // an operator, "coordinator" or a member
	Action  string          `json:"action"` // "directive.issued", "member.enrolled", ...
	Subject string          `json:"subject,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Detail  json.RawMessage `json:"detail,omitempty"` // evidence, for instance a verdict's
	Aside   *Aside          `json:"aside,omitempty"`  // instead of a long Detail
}

// Aside names a detail that is too long for the entry. It is the object
// audit/detail/SHA256.json.
type Aside struct {
	Digest fleet.Digest `json:"sha256"`
	Size   int64        `json:"size"`
}

// Directive is the detail of a [DirectiveIssued] entry.
type Directive struct {
	Group    fleet.Group  `json:"group"`
	Sequence uint64       `json:"sequence"`
	Digest   fleet.Digest `json:"sha256"` // of the directive's bytes
}

// KeyDetail is the detail of a [KeyTaken] entry.
type KeyDetail struct {
	Key string `json:"vkey"` // as in the policy's trust/audit.vkey, without the line's end
}

// Leaf is the entry's canonical bytes: compact JSON, keys in the order above,
// '<', '>' and '&' escaped, the time in UTC. A long detail is put aside: its
// bytes come back in aside, and the leaf holds their digest.
func (e Entry) Leaf() (leaf, aside []byte, err error) {
	e.At = e.At.UTC()
	for _, text := range []*string{&e.Actor, &e.Action, &e.Subject, &e.Reason} {
		*text = strings.ToValidUTF8(*text, "\uFFFD")
		if len(*text) > maxText {
			*text = strings.ToValidUTF8((*text)[:maxText], "") + "..."
		}
	}
	if e.Detail != nil {
		if e.Detail, err = json.Marshal(e.Detail); err != nil {
			return nil, nil, err
		}
	}
	if len(e.Detail) > MaxDetail {
		aside = e.Detail
		e.Detail, e.Aside = nil, &Aside{Digest: fleet.DigestOf(aside), Size: int64(len(aside))}
	}
	if leaf, err = json.Marshal(e); err != nil {
		return nil, nil, err
	}
	if len(leaf) > MaxLeaf {
		return nil, nil, fmt.Errorf("an entry of %d bytes, at most %d", len(leaf), MaxLeaf)
	}
	return leaf, aside, nil
}

// Whole is the entry with the detail that lay aside, once its digest is checked.
func (e Entry) Whole(aside []byte) (Entry, error) {
	if e.Aside == nil || fleet.DigestOf(aside) != e.Aside.Digest {
		return e, errors.New("the detail is not the one that the entry names")
	}
	e.Detail, e.Aside = aside, nil
	return e, nil
}

// ParseEntry reads a leaf. Only canonical bytes are an entry's.
func ParseEntry(leaf []byte) (Entry, error) {
	var e Entry
	if len(leaf) > MaxLeaf {
		return e, fmt.Errorf("%d bytes, at most %d", len(leaf), MaxLeaf)
	}
	dec := json.NewDecoder(bytes.NewReader(leaf))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Entry{}, err
	}
	again, err := json.Marshal(e)
	if err != nil || !bytes.Equal(again, leaf) {
		return Entry{}, errors.New("not in canonical form")
	}
	return e, nil
}

// Directive reads what a [DirectiveIssued] entry says.
func (e Entry) Directive() (Directive, error) {
	var d Directive
	if e.Action != DirectiveIssued {
		return d, fmt.Errorf("the entry is %q, not %q", e.Action, DirectiveIssued)
	}
	return d, oms.DecodeStrict(e.Detail, &d)
}

// Key reads what a [KeyTaken] entry says: a public key.
func (e Entry) Key() (string, error) {
	var d KeyDetail
	if e.Action != KeyTaken {
		return "", fmt.Errorf("the entry is %q, not %q", e.Action, KeyTaken)
	}
	if err := oms.DecodeStrict(e.Detail, &d); err != nil {
		return "", err
	}
	_, err := ParseKey(d.Key)
	return d.Key, err
}
