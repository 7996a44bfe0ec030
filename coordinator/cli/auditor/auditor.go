// Package auditor checks a fleet's audit log as an outsider does: from the tiles
// in the bucket, or a copy of them, and the root that is pinned. It asks no
// coordinator, and believes none.
//
//	src, err := auditor.Open(ctx, get, root)         // the audit key out of the policy
//	report, err := src.Verify(ctx, "")               // the whole log, and every verdict
package auditor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Verdict is the action of the entries that hold a verdict with its evidence.
const Verdict = "rollout.verdict"

const op = "verify audit log"

// Source is a log in a bucket, and the key that it has to be signed with.
type Source struct {
	get    ledger.Get
	key    note.Verifier
	former []string // public keys that policies listed before
}

// Open finds the audit key in the policy that root, which the caller trusts,
// leads to.
func Open(ctx context.Context, get repository.Get, root []byte) (Source, error) {
	repo, err := repository.Open(ctx, get, repository.Options{Root: root})
	if err != nil {
		return Source{}, err
	}
	key := repo.AuditKey()
	if key == "" {
		return Source{}, fault.Newf(fault.NotFound, op, trust.PathAuditKey, "the policy of fleet %s lists no audit key", repo.Fleet()).
			WithHint("have the keeper of the policy add one: modelfleet key rotate audit")
	}
	s, err := With(get, key)
	if err == nil {
		s.former, err = repo.FormerAuditKeys(ctx)
	}
	return s, err
}

// With is a source whose key is known.
func With(get repository.Get, publicKey string) (Source, error) {
	v, err := ledger.ParseKey(strings.TrimSpace(publicKey))
	if err != nil {
		return Source{}, fault.New(fault.Invalid, op, "key", err)
	}
	return Source{get: ledger.Get(get), key: v}, nil
}

// Checkpoint is the newest checkpoint, its signature checked, and as it was signed.
func (s Source) Checkpoint(ctx context.Context) (ledger.Checkpoint, string, error) {
	raw, err := s.get(ctx, ledger.CheckpointKey)
	if fault.Is(err, fault.NotFound) {
		return ledger.Checkpoint{}, "", fault.New(fault.NotFound, op, ledger.CheckpointKey, err).
			WithHint("is this the fleet's bucket, or a copy of all of its audit/ folder?")
	}
	if err != nil {
		return ledger.Checkpoint{}, "", err
	}
	c, err := ledger.Open(string(raw), s.key)
	switch {
	case err == nil:
		return c, string(raw), nil
	case s.byFormer(string(raw)):
		return c, "", fault.Newf(fault.Untrusted, op, ledger.CheckpointKey, "it is still signed by the key that the policy listed before, not by %08x", s.key.KeyHash()).
			WithHint("copy audit-N.key into the keys folder of the coordinator's fleet folder: it takes it up within a minute")
	}
	return c, "", fault.New(fault.Untrusted, op, ledger.CheckpointKey, err).
		WithHint("it is another fleet's, or signed by a key that the policy does not list: it lists %08x of %s", s.key.KeyHash(), s.key.Name())
}

// byFormer reports whether a key that the policy listed before signed a checkpoint.
func (s Source) byFormer(signed string) bool {
	return slices.ContainsFunc(s.former, func(k string) bool {
		v, err := ledger.ParseKey(k)
		if err == nil {
			_, err = ledger.Open(signed, v)
		}
		return err == nil
	})
}

// keyring is the log's key, and those that the policy listed before.
func (s Source) keyring() (*ledger.Keyring, error) {
	keys := ledger.NewKeyring(s.key)
	for _, k := range s.former {
		v, err := ledger.ParseKey(k)
		if err != nil {
			return nil, fault.New(fault.Invalid, op, "earlier key", err)
		}
		keys.Add(v)
	}
	return keys, nil
}

// Report is what a log was found to be.
type Report struct {
	Entries    uint64         `json:"entries"`
	Root       tlog.Hash      `json:"root"`
	Directives int            `json:"directives"`
	Verdicts   int            `json:"verdicts"`        // reached again from their evidence
	Details    int            `json:"details"`         // that lie aside, with the right digest
	Since      uint64         `json:"since,omitempty"` // entries of the earlier checkpoint that it goes on from
	Actions    []string       `json:"-"`               // in the order of their first appearance
	Counts     map[string]int `json:"actions"`
}

// Verify recomputes the tree from the tiles, checks it against the checkpoint, and
// reaches every verdict again from its recorded evidence. since is an earlier signed
// checkpoint, or "": the log has to go on from it. The keys that it may be signed
// with are those that the log itself and the policy's history name.
func (s Source) Verify(ctx context.Context, since string) (Report, error) {
	c, _, err := s.Checkpoint(ctx)
	if err != nil {
		return Report{}, err
	}
	keys, err := s.keyring()
	if err != nil {
		return Report{}, err
	}
	r := Report{Entries: c.Size, Root: c.Root, Counts: map[string]int{}}
	tree, err := ledger.Verify(ctx, s.get, c, func(index uint64, _ []byte, e ledger.Entry) error {
		if err := keys.Learn(e); err != nil {
			return fault.New(fault.Untrusted, op, fmt.Sprintf("entry %d", index+1), err)
		}
		return s.entry(ctx, &r, index, e)
	})
	if err != nil || since == "" {
		return r, err
	}
	old, err := keys.Kept(tree, c.Size, since)
	r.Since = old.Size
	return r, err
}

func (s Source) entry(ctx context.Context, r *Report, index uint64, e ledger.Entry) error {
	if r.Counts[e.Action] == 0 {
		r.Actions = append(r.Actions, e.Action)
	}
	r.Counts[e.Action]++
	aside := e.Aside != nil
	whole, err := s.Whole(ctx, index, e)
	if err != nil {
		return err
	}
	if aside {
		r.Details++
	}
	switch e.Action {
	case ledger.DirectiveIssued:
		r.Directives++
	case Verdict:
		r.Verdicts++
		return Replay(index, whole)
	}
	return nil
}

// Whole is an entry with the detail that lies aside.
func (s Source) Whole(ctx context.Context, index uint64, e ledger.Entry) (ledger.Entry, error) {
	if e.Aside == nil {
		return e, nil
	}
	key := ledger.DetailKey(e.Aside.Digest)
	body, err := s.get(ctx, key)
	if err == nil {
		e, err = e.Whole(body)
	}
	if err != nil {
		return e, fault.New(fault.Untrusted, op, fmt.Sprintf("entry %d", index+1), fmt.Errorf("%s: %w", key, err)).
			WithHint("put back the object, or compare with a copy kept elsewhere")
	}
	return e, nil
}

// Entry is one entry of the verified log, with the proof that it is in it.
func (s Source) Entry(ctx context.Context, index uint64) (ledger.Proof, ledger.Entry, error) {
	var p ledger.Proof
	var e ledger.Entry
	c, signed, err := s.Checkpoint(ctx)
	if err != nil {
		return p, e, err
	}
	p = ledger.Proof{Checkpoint: signed, Index: index}
	if p.Leaf, err = ledger.Load(ctx, s.get, c.Size, index); err != nil {
		return p, e, err
	}
	tree, err := ledger.Verify(ctx, s.get, c, func(i uint64, leaf []byte, _ ledger.Entry) error {
		if i == index {
			p.Leaf = bytes.Clone(leaf)
		}
		return nil
	})
	if err == nil {
		p.Path, err = tlog.ProveRecord(int64(c.Size), int64(index), tree)
	}
	if err == nil {
		e, err = ledger.ParseEntry(p.Leaf)
	}
	if err != nil {
		return p, e, err
	}
	e, err = s.Whole(ctx, index, e)
	return p, e, err
}

// Replay reaches a verdict again from the evidence in its entry. Another verdict
// is an error of kind Untrusted.
func Replay(index uint64, e ledger.Entry) error {
	subject := fmt.Sprintf("entry %d", index+1)
	var rec struct {
		Verdict  json.RawMessage
		Config   analysis.Config
		Before   analysis.State
		Evidence analysis.Evidence
	}
	if err := json.Unmarshal(e.Detail, &rec); err != nil {
		return fault.New(fault.Untrusted, "replay verdict", subject, err)
	}
	_, v := analysis.Evaluate(rec.Config, rec.Before, rec.Evidence)
	got, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "replay verdict", subject, err)
	}
	if !bytes.Equal(got, rec.Verdict) {
		return fault.Newf(fault.Untrusted, "replay verdict", subject, "its evidence leads to %s (%s), not to the verdict that was recorded", v.Outcome, v.Reason).
			WithHint("the coordinator did not judge by its rules, or another version of this program judged: use the one of that time")
	}
	return nil
}
