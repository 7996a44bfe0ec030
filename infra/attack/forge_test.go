package attack_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// teamRole is the role of the team that most fleets have.
const teamRole = "pub-vision"

// key is a key of the fleet's folder: what a thief who was there holds.
func (f *field) key(name string) *signer.Signer {
	f.t.Helper()
	s, err := signer.Load(f.t.Context(), filepath.Join(f.dir, "fleet", "keys", name+".pem"))
	sure(f.t, err)
	return s
}

func ephemeral(t *testing.T) *signer.Signer {
	t.Helper()
	s, err := signer.Ephemeral()
	sure(t, err)
	return s
}

// forge is a pack taken apart, changed, and put together again so that everything
// else fits: whatever is wrong with it dies at the check meant for it. Which keys
// sign is up to the thief.
type forge struct {
	t         *testing.T
	pack      trust.Pack
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	policy    *metadata.Metadata[metadata.TargetsType]
	fleet     *metadata.Metadata[metadata.TargetsType]
	teams     map[string]*metadata.Metadata[metadata.TargetsType]
	directive []byte
	// ledger is the audit log as the thief goes on with it; nil: its key is not
	// among what was stolen.
	ledger *ledgerForge
	// The keys that sign; the right ones unless a test takes others. A role
	// without a key keeps the signatures it has.
	keys map[string]signature.Signer
}

// forge takes the newest pack apart, with all the keys of the coordinator.
func (f *field) forge(pack []byte) *forge {
	f.t.Helper()
	p, err := trust.DecodePack(pack)
	sure(f.t, err)
	g := &forge{
		t: f.t, pack: p, directive: p.Directive,
		timestamp: load[metadata.TimestampType](f.t, p.Timestamp), snapshot: load[metadata.SnapshotType](f.t, p.Snapshot),
		policy: load[metadata.TargetsType](f.t, p.Policy), fleet: load[metadata.TargetsType](f.t, p.Fleet),
		teams: map[string]*metadata.Metadata[metadata.TargetsType]{},
		keys:  map[string]signature.Signer{"timestamp": f.key("timestamp"), "snapshot": f.key("coordinator"), "fleet": f.key("coordinator")},
	}
	for role, raw := range p.Publishers {
		g.teams[role] = load[metadata.TargetsType](f.t, raw)
	}
	g.timestamp.Signed.Version++
	g.snapshot.Signed.Version++
	return g
}

func load[T metadata.Roles](t *testing.T, raw []byte) *metadata.Metadata[T] {
	t.Helper()
	m, err := new(metadata.Metadata[T]).FromBytes(raw)
	sure(t, err)
	return m
}

// sign signs a role's metadata anew if there is a key for it.
func sign[T metadata.Roles](g *forge, role string, m *metadata.Metadata[T]) []byte {
	g.t.Helper()
	if key := g.keys[role]; key != nil {
		m.Signatures = nil
		_, err := m.Sign(key)
		sure(g.t, err)
	}
	raw, err := m.ToBytes(false)
	sure(g.t, err)
	return raw
}

// edit changes the directive and gives it the next number.
func (g *forge) edit(change func(*fleet.Directive)) *forge {
	g.t.Helper()
	var d fleet.Directive
	sure(g.t, json.Unmarshal(g.directive, &d))
	d.Sequence++
	d.Issued = time.Now().UTC().Truncate(time.Second)
	change(&d)
	raw, err := json.Marshal(d)
	sure(g.t, err)
	g.directive = raw
	return g
}

// seal signs everything from the bottom up and packs it.
func (g *forge) seal() []byte {
	g.t.Helper()
	list := func(name string, version int64, raw []byte) {
		sum := fleet.DigestOf(raw)
		g.snapshot.Signed.Meta[name+".json"] = &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	sum := fleet.DigestOf(g.directive)
	g.pack.Directive = g.directive
	if g.ledger != nil {
		g.pack.Audit = g.ledger.prove(g.t, g.directive)
	}
	path := fleet.DefaultGroup.TargetPath()
	g.fleet.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(g.directive)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: path}
	g.pack.Publishers = map[string]json.RawMessage{}
	for _, role := range slices.Sorted(maps.Keys(g.teams)) {
		raw := sign(g, role, g.teams[role])
		g.pack.Publishers[role] = raw
		list(role, g.teams[role].Signed.Version, raw)
	}
	g.pack.Policy = sign(g, "targets", g.policy)
	list("targets", g.policy.Signed.Version, g.pack.Policy)
	g.pack.Fleet = sign(g, "fleet", g.fleet)
	list("fleet", g.fleet.Signed.Version, g.pack.Fleet)
	g.pack.Snapshot = sign(g, "snapshot", g.snapshot)
	snap := fleet.DigestOf(g.pack.Snapshot)
	g.timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: g.snapshot.Signed.Version, Length: int64(len(g.pack.Snapshot)), Hashes: metadata.Hashes{"sha256": snap[:]}}
	g.pack.Timestamp = sign(g, "timestamp", g.timestamp)
	return encode(g.t, g.pack)
}

func encode(t *testing.T, p trust.Pack) []byte {
	t.Helper()
	raw, err := p.Encode()
	sure(t, err)
	return raw
}

// mix is a pack with parts of another.
func mix(t *testing.T, base []byte, change func(*trust.Pack)) []byte {
	t.Helper()
	p, err := trust.DecodePack(base)
	sure(t, err)
	change(&p)
	return encode(t, p)
}

// puts writes into the bucket what a key's holder signed elsewhere.
func (f *field) puts(writes ...repository.Write) {
	f.t.Helper()
	for _, w := range writes {
		f.bucket.put(f.t, w.Key, w.Body)
	}
}

// ledgerForge is the audit log in the hands of a thief of its key: the true one so
// far, and the thief's entries after it.
type ledgerForge struct {
	key   note.Signer
	tree  ledger.Tree
	sizes []uint64 // of the logs that members were shown
}

// ledger goes on with the fleet's log from where a pack has it.
func (f *field) ledger(pack []byte) *ledgerForge {
	f.t.Helper()
	p, err := trust.DecodePack(pack)
	sure(f.t, err)
	proof, err := ledger.ParseProof(p.Audit)
	sure(f.t, err)
	c, err := ledger.Peek(proof.Checkpoint)
	sure(f.t, err)
	l := &ledgerForge{sizes: []uint64{c.Size}}
	l.key, _, err = ledger.LoadKey(filepath.Join(f.dir, "fleet", "keys", "audit.key"), "orchard")
	sure(f.t, err)
	leaves, err := ledger.Restore(f.t.Context(), f.bucket.read, 0, c.Size)
	sure(f.t, err)
	for _, leaf := range leaves {
		sure(f.t, l.tree.Append(leaf))
	}
	return l
}

// prove adds a directive to the log and proves that it is there.
func (l *ledgerForge) prove(t *testing.T, directive []byte) []byte {
	t.Helper()
	d, err := trust.ParseDirective(directive)
	sure(t, err)
	detail, err := json.Marshal(ledger.Directive{Group: d.Group, Sequence: d.Sequence, Digest: fleet.DigestOf(directive)})
	sure(t, err)
	leaf, _, err := ledger.Entry{At: time.Now(), Actor: "coordinator", Action: ledger.DirectiveIssued, Subject: string(d.Group), Detail: detail}.Leaf()
	sure(t, err)
	index := l.tree.Size()
	sure(t, l.tree.Append(leaf))
	size := l.tree.Size()
	root, err := l.tree.Root(size)
	sure(t, err)
	signed, err := ledger.Checkpoint{Origin: l.key.Name(), Size: size, Root: root}.Sign(l.key)
	sure(t, err)
	p := ledger.Proof{Checkpoint: signed, Index: index, Leaf: leaf}
	p.Path, err = tlog.ProveRecord(int64(size), int64(index), &l.tree)
	sure(t, err)
	for _, n := range l.sizes[max(0, len(l.sizes)-8):] {
		path, err := ledger.ProveConsistency(n, size, &l.tree)
		sure(t, err)
		p.Since = append(p.Since, ledger.Since{Size: n, Path: path})
	}
	l.sizes = append(l.sizes, size)
	raw, err := json.Marshal(p)
	sure(t, err)
	return raw
}
