package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxNote is the size of the longest signed checkpoint that is read.
const MaxNote = 4 << 10

// Checkpoint is the head of a log: how many entries it has, and the root hash of
// the tree over them.
type Checkpoint struct {
	Origin string // which log: "modelfleet/FLEET"
	Size   uint64
	Root   tlog.Hash
}

// OriginOf is the name of a fleet's log, and of the key that signs it.
func OriginOf(fleetName string) string { return "modelfleet/" + fleetName }

// String is the checkpoint in words.
func (c Checkpoint) String() string { return fmt.Sprintf("size %d, root %s", c.Size, c.Root) }

// Conflicts reports whether two checkpoints cannot be of one log: the same size,
// and other entries.
func (c Checkpoint) Conflicts(o Checkpoint) bool { return c.Size == o.Size && c.Root != o.Root }

// text is the body that is signed.
func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Sign is the checkpoint as a signed note.
func (c Checkpoint) Sign(s note.Signer) (string, error) {
	b, err := note.Sign(&note.Note{Text: c.text()}, s)
	return string(b), err
}

// Open reads a signed checkpoint of the log that the verifier's key is named
// after. Further signatures, of witnesses for instance, and further lines are let
// pass, as C2SP's tlog-checkpoint wants.
func Open(signed string, v note.Verifier) (Checkpoint, error) {
	if len(signed) > MaxNote {
		return Checkpoint{}, fmt.Errorf("a checkpoint of %d bytes, at most %d", len(signed), MaxNote)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := parse(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("it is of the log %q, not of %q", c.Origin, v.Name())
	}
	return c, nil
}

// Peek reads a checkpoint without believing it.
func Peek(signed string) (Checkpoint, error) {
	body, _, ok := strings.Cut(signed, "\n\n")
	if !ok || len(signed) > MaxNote {
		return Checkpoint{}, errors.New("not a signed checkpoint")
	}
	return parse(body + "\n")
}

func parse(text string) (Checkpoint, error) {
	bad := errors.New("not a checkpoint: want origin, size and root hash, each on its line")
	lines := strings.SplitAfterN(text, "\n", 4)
	if len(lines) != 4 {
		return Checkpoint{}, bad
	}
	origin, digits, root := strings.TrimSuffix(lines[0], "\n"), strings.TrimSuffix(lines[1], "\n"), strings.TrimSuffix(lines[2], "\n")
	size, err := strconv.ParseUint(digits, 10, 62)
	if err != nil || origin == "" || strconv.FormatUint(size, 10) != digits {
		return Checkpoint{}, bad
	}
	h, err := tlog.ParseHash(root)
	if err != nil || h.String() != root {
		return Checkpoint{}, bad
	}
	return Checkpoint{Origin: origin, Size: size, Root: h}, nil
}
