package trust

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// AuditState is what a member remembers of the fleet's audit log, so that it is
// never shown another one. It belongs to one key: when the policy lists another,
// members begin anew.
type AuditState struct {
	Key   string     `json:"key,omitempty"`  // the public key that Head is signed with
	Head  Head       `json:"head,omitzero"`  // of the newest pack believed
	Past  []Head     `json:"past,omitempty"` // heads before it, newest first, for comparing with neighbours
	Open  []Head     `json:"open,omitempty"` // signed heads not yet shown to be of one log with Head
	Split *SplitView `json:"split,omitempty"`
}

// Head is a checkpoint that somebody was shown.
type Head struct {
	Size uint64    `json:"size"`
	Root tlog.Hash `json:"root"`
	Note string    `json:"note"` // as it was signed
}

// The heads a member keeps.
const (
	maxPast = 4
	maxOpen = 8
)

// SplitView is the proof that a log's key signed two histories: two checkpoints
// that cannot be of one log. It is an error of [RuleAudit].
type SplitView struct {
	Mine   string `json:"mine"`   // the signed checkpoint that was known
	Theirs string `json:"theirs"` // the one that contradicts it

	// Between checkpoints of two sizes: the smaller log's size had the root hash
	// Older in the larger log, as Path proves.
	Older tlog.Hash   `json:"older,omitzero"`
	Path  []tlog.Hash `json:"path,omitempty"`
}

// Error says what was found.
func (s *SplitView) Error() string {
	a, errA := ledger.Peek(s.Mine)
	b, errB := ledger.Peek(s.Theirs)
	if err := errors.Join(errA, errB); err != nil {
		return fmt.Sprintf("split view: %v", err)
	}
	return fmt.Sprintf("split view: the audit log's key signed two histories, one of %s and one of %s", a, b)
}

// Log is what a pack proved of the audit log.
type Log struct {
	Checkpoint ledger.Checkpoint
	Note       string // the checkpoint as signed
	Index      uint64 // of the directive's entry, from 0
	Unproven   int    // heads seen that are not yet shown to be of one log with it
}

// Equal reports whether nothing changed.
func (c AuditState) Equal(o AuditState) bool {
	split := (c.Split == nil) == (o.Split == nil) && (c.Split == nil || c.Split.Mine == o.Split.Mine && c.Split.Theirs == o.Split.Theirs)
	return split && c.Key == o.Key && c.Head == o.Head && slices.Equal(c.Past, o.Past) && slices.Equal(c.Open, o.Open)
}

// audit checks that the directive is in the audit log, and that the log is the
// one seen before. It is demanded while the policy lists a key.
func (s *session) audit() error {
	listed := s.chain.policy.Signed.Targets[PathAuditKey]
	if listed == nil {
		s.next.Audit = AuditState{}
		return nil
	}
	key := string(s.pack.Targets[PathAuditKey])
	old := s.old.Audit
	if old.Key != key {
		old = AuditState{Key: key} // whoever had the old key may have signed anything
	}
	if old.Split != nil {
		return old.Split
	}
	v, err := ledger.ParseKey(key)
	if err != nil {
		return broken(RuleFormat, "%s: %w", PathAuditKey, err)
	}
	if want := ledger.OriginOf(s.out.Fleet); v.Name() != want {
		return fmt.Errorf("%s is the key of %s, this is %s", PathAuditKey, v.Name(), want)
	}
	if len(s.pack.Audit) == 0 {
		return errors.New("the policy lists an audit key, and the pack does not prove that its directive is in the audit log")
	}
	proof, err := ledger.ParseProof(s.pack.Audit)
	if err != nil {
		return broken(RuleFormat, "audit: %w", err)
	}
	c, e, err := proof.Check(v)
	if err != nil {
		return err
	}
	if err := s.sameDirective(e); err != nil {
		return fmt.Errorf("entry %d: %w", proof.Index+1, err)
	}
	if s.next.Audit, err = old.advance(Head{c.Size, c.Root, proof.Checkpoint}, proof.Since); err != nil {
		return err
	}
	s.out.Log = Log{Checkpoint: c, Note: proof.Checkpoint, Index: proof.Index, Unproven: len(s.next.Audit.Open)}
	return nil
}

// sameDirective checks that the entry is about the pack's directive.
func (s *session) sameDirective(e ledger.Entry) error {
	d, err := e.Directive()
	if err != nil {
		return err
	}
	want := ledger.Directive{Group: s.facts.Group, Sequence: s.next.Sequence, Digest: s.out.Digest}
	if d != want {
		return fmt.Errorf("it is of directive %d of group %s with digest %s, the pack's is %d of %s with %s",
			d.Sequence, d.Group, d.Digest.Short(), want.Sequence, want.Group, want.Digest.Short())
	}
	return nil
}

// advance takes up the head of a new pack. since is what the pack proves of it;
// heads of which it proves nothing stay open.
func (c AuditState) advance(h Head, since []ledger.Since) (AuditState, error) {
	if err := c.compare(h); err != nil {
		return c, err
	}
	switch {
	case h.Size == c.Head.Size:
		return c, nil // the signature may be another, the log is not
	case h.Size < c.Head.Size:
		if slices.ContainsFunc(c.Past, h.sameSize) {
			return c, nil
		}
		return c, fmt.Errorf("the audit log has %d entries, it had %d before", h.Size, c.Head.Size)
	}
	next := AuditState{Key: c.Key, Head: h}
	earlier := c.Open
	if c.Head.Size > 0 {
		earlier = append([]Head{c.Head}, c.Open...)
	}
	for _, o := range earlier {
		ok, err := shown(o, h, since)
		switch {
		case err != nil:
			return c, err
		case !ok:
			next.Open = append(next.Open, o)
		case o == c.Head:
			next.Past = append(next.Past, o)
		}
	}
	next.Past = append(next.Past, c.Past...)
	next.Past = next.Past[:min(len(next.Past), maxPast)]
	next.Open = next.Open[:min(len(next.Open), maxOpen)]
	return next, nil
}

// shown reports whether the pack proves that the log of o goes on to h.
func shown(o, h Head, since []ledger.Since) (bool, error) {
	if o.Size == h.Size {
		return true, nil // compared before
	}
	for _, s := range since {
		if s.Size == o.Size {
			if err := ledger.Consistent(o.checkpoint(), h.checkpoint(), s.Path); err != nil {
				// Whoever carried the pack may have changed this part: it proves
				// nothing against the log.
				return false, fmt.Errorf("proof that the log of %d entries goes on to %d: %w", o.Size, h.Size, err)
			}
			return true, nil
		}
	}
	return false, nil
}

// compare looks for a head of the same size with another root hash.
func (c AuditState) compare(h Head) error {
	for _, known := range slices.Concat([]Head{c.Head}, c.Past, c.Open) {
		if known.Size > 0 && known.checkpoint().Conflicts(h.checkpoint()) {
			return &SplitView{Mine: known.Note, Theirs: h.Note}
		}
	}
	return nil
}

func (h Head) sameSize(o Head) bool { return h.Size == o.Size }

func (h Head) checkpoint() ledger.Checkpoint { return ledger.Checkpoint{Size: h.Size, Root: h.Root} }

// open reads a signed checkpoint of the log that the state knows.
func (c AuditState) open(signed string) (Head, error) {
	if c.Key == "" {
		return Head{}, errors.New("this member knows of no audit log")
	}
	var v note.Verifier
	v, err := ledger.ParseKey(c.Key)
	if err != nil {
		return Head{}, err
	}
	cp, err := ledger.Open(signed, v)
	return Head{cp.Size, cp.Root, signed}, err
}

// Witness takes note of a signed checkpoint that somebody else was shown. One
// that contradicts what is known here makes the state a split one, in which
// [Verify] refuses every pack until the policy lists another audit key. One of
// another size stays open until [AuditState.Prove]. An error is a checkpoint
// that the log's key did not sign: it says nothing about the log.
func (c AuditState) Witness(signed string) (AuditState, error) {
	h, err := c.open(signed)
	if err != nil {
		return c, Violated(RuleAudit, "compare checkpoint", "", err)
	}
	known := slices.Concat([]Head{c.Head}, c.Past, c.Open)
	if c.Split != nil || h.Size == 0 {
		return c, nil
	}
	if err := c.compare(h); err != nil {
		return c.split(err), nil
	}
	if slices.ContainsFunc(known, h.sameSize) || len(c.Open) >= maxOpen {
		return c, nil
	}
	c.Open = append(slices.Clone(c.Open), h)
	return c, nil
}

// Prove closes an open head by a proof that it is of one log with Head. root is
// what the log of the smaller size has for its root hash, as whoever gave the path
// says. The state becomes a split one when the path proves that root for the larger
// log, and the smaller checkpoint was signed with another: the log's key signed
// both. Any other path proves nothing of the log: the head stays open, and the
// error says so.
func (c AuditState) Prove(open Head, root tlog.Hash, path []tlog.Hash) (AuditState, error) {
	older, newer := open, c.Head
	if older.Size > newer.Size {
		older, newer = newer, older
	}
	if err := ledger.Consistent(older.checkpoint(), newer.checkpoint(), path); err != nil {
		other := ledger.Checkpoint{Size: older.Size, Root: root}
		if !other.Conflicts(older.checkpoint()) || ledger.Consistent(other, newer.checkpoint(), path) != nil {
			return c, Violated(RuleAudit, "prove checkpoint", "", err)
		}
		return c.split(&SplitView{Mine: c.Head.Note, Theirs: open.Note, Older: root, Path: path}), nil
	}
	c.Open = slices.DeleteFunc(slices.Clone(c.Open), func(h Head) bool { return h == open })
	if open.Size < c.Head.Size {
		c.Past = append([]Head{open}, c.Past...)
		c.Past = c.Past[:min(len(c.Past), maxPast)]
	}
	return c, nil
}

// Refused takes note of a [SplitView] for which [Verify] refused a pack.
func (c AuditState) Refused(err error) AuditState { return c.split(err) }

func (c AuditState) split(err error) AuditState {
	if view, ok := errors.AsType[*SplitView](err); ok && c.Split == nil {
		c.Split = view
	}
	return c
}
