package ledger

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// The limits of a proof.
const (
	maxHashes = 64 // of one proof: a tree of 2^62 entries needs no more
	maxSince  = 16
)

// Proof shows that an entry is in a log: what a trust pack carries.
type Proof struct {
	Checkpoint string          `json:"checkpoint"` // signed
	Index      uint64          `json:"index"`      // of the leaf, from 0
	Leaf       json.RawMessage `json:"leaf"`       // the entry, byte for byte
	Path       []tlog.Hash     `json:"path"`       // inclusion, as in RFC 6962
	Since      []Since         `json:"since,omitempty"`
}

// Since shows that the log of so many entries is the beginning of the checkpoint's.
type Since struct {
	Size uint64      `json:"size"`
	Path []tlog.Hash `json:"path"` // consistency, as in RFC 6962
}

// ParseProof reads a proof strictly. It believes nothing of it.
func ParseProof(raw []byte) (Proof, error) {
	var p Proof
	if err := oms.DecodeStrict(raw, &p); err != nil {
		return Proof{}, err
	}
	if len(p.Path) > maxHashes || len(p.Since) > maxSince {
		return Proof{}, errors.New("too many hashes")
	}
	for _, s := range p.Since {
		if len(s.Path) > maxHashes {
			return Proof{}, errors.New("too many hashes")
		}
	}
	return p, nil
}

// Check opens the proof's checkpoint and checks that the leaf is in its tree.
func (p Proof) Check(v note.Verifier) (Checkpoint, Entry, error) {
	c, err := Open(p.Checkpoint, v)
	if err != nil {
		return Checkpoint{}, Entry{}, err
	}
	if p.Index >= c.Size {
		return Checkpoint{}, Entry{}, fmt.Errorf("entry %d is not in a log of %d", p.Index+1, c.Size)
	}
	if err := tlog.CheckRecord(p.Path, int64(c.Size), c.Root, int64(p.Index), tlog.RecordHash(p.Leaf)); err != nil {
		return Checkpoint{}, Entry{}, fmt.Errorf("entry %d: %w", p.Index+1, err)
	}
	e, err := ParseEntry(p.Leaf)
	if err != nil {
		return Checkpoint{}, Entry{}, fmt.Errorf("entry %d: %w", p.Index+1, err)
	}
	return c, e, nil
}

// Consistent checks that older is the beginning of newer. Any log goes on from
// the empty one, whose proof is empty.
func Consistent(older, newer Checkpoint, path []tlog.Hash) error {
	switch {
	case older.Size > newer.Size:
		return fmt.Errorf("a log of %d entries does not go on from one of %d", newer.Size, older.Size)
	case older.Size == newer.Size && older.Root != newer.Root:
		return fmt.Errorf("two logs of %d entries have different root hashes", newer.Size)
	case older.Size == newer.Size || older.Size == 0:
		return nil
	}
	return tlog.CheckTree(path, int64(newer.Size), newer.Root, int64(older.Size), older.Root)
}

// ProveConsistency makes the proof that [Consistent] checks.
func ProveConsistency(older, newer uint64, r tlog.HashReader) ([]tlog.Hash, error) {
	if older == 0 || older == newer {
		return []tlog.Hash{}, nil
	}
	return tlog.ProveTree(int64(newer), int64(older), r)
}

// RootOf is the root hash of the first size entries.
func RootOf(size uint64, r tlog.HashReader) (tlog.Hash, error) { return tlog.TreeHash(int64(size), r) }
