package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// AuditEntry is one line of the audit log. GET /v1/audit?after=N. A detail that
// lies aside in the log is given whole.
type AuditEntry struct {
	Index uint64 `json:"index"` // from 1: the leaf before it is number Index-1 of the tree
	ledger.Entry
}

// AuditCheckpoint is the newest signed checkpoint of the audit log. GET
// /v1/audit/checkpoint.
type AuditCheckpoint struct {
	Note string `json:"note"`
	Key  string `json:"key"` // the public key that signs it, as the coordinator says
}

// AuditProof is an entry with the proof that it is in the log. GET
// /v1/audit/entries/N.
type AuditProof struct {
	Proof ledger.Proof `json:"proof"`
	Key   string       `json:"key"`             // as in [AuditCheckpoint]
	Aside []byte       `json:"aside,omitempty"` // the detail that lies aside
}

// AuditConsistency proves that the log of From entries, with root hash Root, is
// the beginning of the log of To. GET /v1/audit/consistency?from=N&to=M.
type AuditConsistency struct {
	From uint64      `json:"from"`
	To   uint64      `json:"to"`
	Root tlog.Hash   `json:"root"`
	Path []tlog.Hash `json:"path"`
}

// AuditWitness is a checkpoint that a member was shown and that does not fit what
// it knows. POST /v1/audit/witness.
type AuditWitness struct {
	Notes []string `json:"notes"` // signed; at most 8
}

// AuditSplit is the evidence that somebody was shown another history. GET
// /v1/audit/splits.
type AuditSplit struct {
	Found  time.Time      `json:"found"`
	Member fleet.MemberID `json:"member,omitempty"` // who was shown it
	Ours   string         `json:"ours"`             // our signed checkpoint
	Theirs string         `json:"theirs,omitempty"` // theirs, signed by the log's key
	Claim  string         `json:"claim,omitempty"`  // when no checkpoint is at hand: what the member's signed row says
	Row    []byte         `json:"row,omitempty"`    // that row
	Why    string         `json:"why"`
}

// AuditCheckpoint is the newest checkpoint.
func (c *Client) AuditCheckpoint(ctx context.Context) (AuditCheckpoint, error) {
	return get[AuditCheckpoint](ctx, c, "get checkpoint", "", "/v1/audit/checkpoint")
}

// AuditConsistency asks for the proof that one log is the beginning of the other.
func (c *Client) AuditConsistency(ctx context.Context, from, to uint64) (AuditConsistency, error) {
	q := url.Values{"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(to, 10)}}
	return get[AuditConsistency](ctx, c, "prove consistency", "", "/v1/audit/consistency?"+q.Encode())
}

// AuditWitness tells the coordinator of checkpoints that do not fit.
func (c *Client) AuditWitness(ctx context.Context, w AuditWitness) error {
	_, err := ask[struct{}](ctx, c, call{op: "report checkpoint", method: http.MethodPost, path: "/v1/audit/witness", in: w})
	return err
}

// AuditEntry is one entry, counted from 1, with the proof that it is in the log of
// the newest checkpoint, which is checked.
func (c *Client) AuditEntry(ctx context.Context, n uint64) (ledger.Proof, ledger.Entry, error) {
	const op = "show entry"
	subject := strconv.FormatUint(n, 10)
	r, err := get[AuditProof](ctx, c, op, subject, "/v1/audit/entries/"+subject)
	if err != nil {
		return ledger.Proof{}, ledger.Entry{}, err
	}
	v, err := ledger.ParseKey(r.Key)
	var e ledger.Entry
	if err == nil {
		_, e, err = r.Proof.Check(v)
	}
	if err == nil && r.Aside != nil {
		e, err = e.Whole(r.Aside)
	}
	if err == nil && r.Proof.Index != n-1 {
		err = errors.New("the answer is about another entry")
	}
	if err != nil {
		return ledger.Proof{}, ledger.Entry{}, fault.New(fault.Untrusted, op, subject, err)
	}
	return r.Proof, e, nil
}

// AuditSplits lists the evidence of other histories.
func (c *Client) AuditSplits(ctx context.Context) ([]AuditSplit, error) {
	return get[[]AuditSplit](ctx, c, "list split views", "", "/v1/audit/splits")
}

// AuditReport is what the whole audit log was found to be.
type AuditReport struct {
	Entries uint64    `json:"entries"`
	Signed  uint64    `json:"signed"` // that the newest checkpoint covers
	Root    tlog.Hash `json:"root"`   // over all entries
	Since   uint64    `json:"since,omitempty"`
}

// VerifyAudit reads the whole audit log and checks that it is the one that the
// newest checkpoint was signed for. since is a signed checkpoint that was kept from
// before, or "": the log has to go on from it.
func (c *Client) VerifyAudit(ctx context.Context, since string) (AuditReport, error) {
	const op = "verify audit log"
	var cp ledger.Checkpoint
	var keys *ledger.Keyring
	switch head, err := c.AuditCheckpoint(ctx); {
	case fault.Is(err, fault.NotFound) && since == "": // a fleet without an audit key
	case err != nil:
		return AuditReport{}, err
	default:
		v, err := ledger.ParseKey(head.Key)
		if err == nil {
			cp, err = ledger.Open(head.Note, v)
		}
		if err != nil {
			return AuditReport{}, fault.New(fault.Untrusted, op, "checkpoint", err)
		}
		keys = ledger.NewKeyring(v)
	}
	tree, err := c.auditTree(ctx, func(e AuditEntry) error {
		if keys == nil || e.Index > cp.Size {
			return nil // nobody signed it
		}
		return keys.Learn(e.Entry)
	})
	if err != nil {
		return AuditReport{}, err
	}
	r := AuditReport{Entries: tree.Size(), Signed: cp.Size}
	if tree.Size() < cp.Size {
		return r, fault.Newf(fault.Untrusted, op, "", "the log has %d entries, its checkpoint says %d", tree.Size(), cp.Size)
	}
	at, err := tree.Root(cp.Size)
	if err == nil && cp.Size > 0 && at != cp.Root {
		err = fault.Newf(fault.Untrusted, op, "", "the root hash of %d entries is %s, the checkpoint says %s", cp.Size, at, cp.Root).
			WithHint("entries were changed, added or taken out: compare with the tiles in the bucket by modelfleet audit verify --dir")
	}
	if err != nil {
		return r, err
	}
	if r.Root, err = tree.Root(tree.Size()); err != nil || since == "" {
		return r, err
	}
	old, err := keys.Kept(tree, cp.Size, since)
	r.Since = old.Size
	return r, err
}

// auditTree reads all entries of the audit log.
func (c *Client) auditTree(ctx context.Context, visit func(AuditEntry) error) (*ledger.Tree, error) {
	const op = "verify audit log"
	tree := &ledger.Tree{}
	for {
		page, err := c.Audit(ctx, tree.Size(), 500)
		if err != nil || len(page) == 0 {
			return tree, err
		}
		for _, e := range page {
			leaf, _, err := e.Leaf()
			if err != nil || e.Index != tree.Size()+1 {
				return nil, fault.Newf(fault.Untrusted, op, "", "entry %d follows entry %d", e.Index, tree.Size())
			}
			if err := tree.Append(leaf); err != nil {
				return nil, fault.New(fault.Internal, op, "", err)
			}
			if err := visit(e); err != nil {
				return nil, fault.New(fault.Untrusted, op, strconv.FormatUint(e.Index, 10), err)
			}
		}
	}
}
