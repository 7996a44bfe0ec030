package trusttest

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Log is an audit log in memory, with the key that signs it. A copy of it with
// other entries is another history that the same key signs.
type Log struct {
	Key    string // public
	t      testing.TB
	signer note.Signer
	leaves [][]byte
	heads  []uint64 // sizes at which directives were proven
}

// NewLog makes an empty log of a fleet.
func NewLog(t testing.TB, fleetName string) *Log {
	t.Helper()
	private, public, err := ledger.NewKey(fleetName)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return &Log{Key: public, t: t, signer: s}
}

// NewAudited is [New] with an audit log that the policy lists.
func NewAudited(t testing.TB) *Fleet {
	t.Helper()
	l := NewLog(t, "test")
	f := New(t, func(o *repository.InitOptions) { o.AuditKey = l.Key })
	f.Audit = l
	return f
}

// Fork is another history: it begins like l.
func (l *Log) Fork() *Log {
	c := *l
	c.leaves, c.heads = slices.Clone(l.leaves), slices.Clone(l.heads)
	return &c
}

// Size is the number of entries.
func (l *Log) Size() uint64 { return uint64(len(l.leaves)) }

// Add appends n entries about a subject.
func (l *Log) Add(n int, subject string) {
	l.t.Helper()
	for range n {
		l.add(ledger.Entry{At: Start(), Actor: "ann", Action: "token.created", Subject: subject})
	}
}

func (l *Log) add(e ledger.Entry) {
	l.t.Helper()
	leaf, _, err := e.Leaf()
	if err != nil {
		l.t.Fatal(err)
	}
	l.leaves = append(l.leaves, leaf)
}

func (l *Log) tree() *ledger.Tree {
	l.t.Helper()
	tree := &ledger.Tree{}
	for _, leaf := range l.leaves {
		if err := tree.Append(leaf); err != nil {
			l.t.Fatal(err)
		}
	}
	return tree
}

// Rewrite puts another entry in the place of one: the log is another history.
func (l *Log) Rewrite(index int, subject string) {
	l.t.Helper()
	n := len(l.leaves)
	l.Add(1, subject)
	l.leaves[index], l.leaves = l.leaves[n], l.leaves[:n]
}

// Root is the root hash of the log as it is now.
func (l *Log) Root() tlog.Hash { return l.RootOf(l.Size()) }

// RootOf is the root hash of the first size entries.
func (l *Log) RootOf(size uint64) tlog.Hash {
	l.t.Helper()
	root, err := l.tree().Root(size)
	if err != nil {
		l.t.Fatal(err)
	}
	return root
}

// Checkpoint is the signed checkpoint of the log as it is now.
func (l *Log) Checkpoint() string {
	l.t.Helper()
	text, err := ledger.Checkpoint{Origin: l.signer.Name(), Size: l.Size(), Root: l.Root()}.Sign(l.signer)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

// Consistency proves that the first from entries are the beginning.
func (l *Log) Consistency(from uint64) []tlog.Hash {
	l.t.Helper()
	path, err := ledger.ProveConsistency(from, l.Size(), l.tree())
	if err != nil {
		l.t.Fatal(err)
	}
	return path
}

// Prove appends the entry of a directive and proves it, with the consistency to
// the last three directives.
func (l *Log) Prove(g fleet.Group, sequence uint64, digest fleet.Digest, at time.Time) ledger.Proof {
	l.t.Helper()
	detail, err := json.Marshal(ledger.Directive{Group: g, Sequence: sequence, Digest: digest})
	if err != nil {
		l.t.Fatal(err)
	}
	l.add(ledger.Entry{At: at, Actor: "coordinator", Action: ledger.DirectiveIssued, Subject: string(g), Detail: detail})
	p := ledger.Proof{Checkpoint: l.Checkpoint(), Index: l.Size() - 1, Leaf: l.leaves[l.Size()-1]}
	if p.Path, err = tlog.ProveRecord(int64(l.Size()), int64(p.Index), l.tree()); err != nil {
		l.t.Fatal(err)
	}
	for _, n := range l.heads[max(0, len(l.heads)-3):] {
		p.Since = append(p.Since, ledger.Since{Size: n, Path: l.Consistency(n)})
	}
	l.heads = append(l.heads, l.Size())
	return p
}
