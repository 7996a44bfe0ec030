package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

const opKept = "compare with earlier checkpoint"

// Keyring is the public keys that checkpoints of one log may be signed with: its own,
// and those that it had before.
type Keyring struct {
	keys []note.Verifier
}

// NewKeyring begins with the log's own key.
func NewKeyring(own note.Verifier) *Keyring { return &Keyring{keys: []note.Verifier{own}} }

// Add adds a key that the log had before.
func (k *Keyring) Add(v note.Verifier) {
	if !slices.ContainsFunc(k.keys, func(have note.Verifier) bool { return have.KeyHash() == v.KeyHash() }) {
		k.keys = append(k.keys, v)
	}
}

// Learn adds the key that a verified entry of the log names, if it names one.
func (k *Keyring) Learn(e Entry) error {
	if e.Action != KeyTaken {
		return nil
	}
	public, err := e.Key()
	if err != nil {
		return err
	}
	v, err := ParseKey(public)
	if err == nil {
		k.Add(v)
	}
	return err
}

// Kept checks that the log of a tree, with now entries signed, goes on from a signed
// checkpoint that was kept from before, by whichever key it had then. It returns that
// checkpoint.
func (k *Keyring) Kept(tree *Tree, now uint64, signed string) (Checkpoint, error) {
	c, err := k.open(signed)
	if err != nil {
		return c, err
	}
	if c.Size > now {
		return c, fault.Newf(fault.Untrusted, opKept, "", "it is of %d entries, the log has %d now: entries were taken out", c.Size, now).
			WithHint("the bucket was set back, or members are shown another log: keep both checkpoints")
	}
	root, err := tree.Root(c.Size)
	if err != nil {
		return c, fault.New(fault.Internal, opKept, "", err)
	}
	if c.Size > 0 && root != c.Root {
		return c, fault.Newf(fault.Untrusted, opKept, "", "the first %d entries are not those that it was signed for: the log was made anew", c.Size).
			WithHint("keep both checkpoints: together they prove that the log's keys signed two histories")
	}
	return c, nil
}

// open reads a checkpoint that one of the keys signed, and says why there is none.
func (k *Keyring) open(signed string) (Checkpoint, error) {
	c, err := Peek(signed)
	if err != nil {
		return c, fault.New(fault.Invalid, opKept, "", err).WithHint("give the file that `modelfleet audit checkpoint` wrote, unchanged")
	}
	if own := k.keys[0].Name(); c.Origin != own {
		return c, fault.Newf(fault.Untrusted, opKept, "", "it is of the log %q, this is the log %q", c.Origin, own).
			WithHint("give the checkpoint that was kept of this fleet, or name the other fleet")
	}
	var known []string
	for _, v := range k.keys {
		known = append(known, fmt.Sprintf("%08x", v.KeyHash()))
		if c, err = Open(signed, v); err == nil {
			return c, nil
		}
		if _, is := errors.AsType[*note.InvalidSignatureError](err); is {
			return c, fault.Newf(fault.Untrusted, opKept, "", "the signature by the log's key %08x does not fit: it was changed after it was signed", v.KeyHash()).
				WithHint("take an untouched copy")
		}
	}
	by := "nobody"
	if unknown, is := errors.AsType[*note.UnverifiedNoteError](err); is {
		by = "key " + hashes(unknown.Note.UnverifiedSigs)
	} else {
		return c, fault.New(fault.Untrusted, opKept, "", err).WithHint("take an untouched copy")
	}
	return c, fault.Newf(fault.Untrusted, opKept, "", "it is signed by %s, which this log never had; its keys are %s", by, strings.Join(known, ", ")).
		WithHint("somebody else signed it, or the log was made anew under other keys: keep it, and find out who gave it to you")
}

// hashes names the keys of signatures.
func hashes(sigs []note.Signature) string {
	var out []string
	for _, s := range sigs {
		out = append(out, fmt.Sprintf("%08x", s.Hash))
	}
	return strings.Join(out, ", ")
}
