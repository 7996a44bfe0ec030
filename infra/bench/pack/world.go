package pack

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// shape is how large a fleet's trust is: teams, releases that each lists, and of how
// many teams the directive names a release.
type shape struct{ teams, releases, named int }

func (s shape) String() string {
	if s.named == 1 {
		return fmt.Sprintf("%dx%d", s.teams, s.releases)
	}
	return fmt.Sprintf("%dx%d, %d models", s.teams, s.releases, s.named)
}

// logged is how many entries the audit log has.
const logged = 20_000

// world is a fleet in memory, with everybody's keys and one directive.
type world struct {
	objects map[string][]byte
	genesis repository.Genesis
	pack    []byte
	bundle  []byte // a release's
	key     *ecdsa.PublicKey
	path    string // target path of the bundle
	now     time.Time

	repo      *repository.Repository
	directive fleet.Directive // of the pack
	publisher *signer.Signer  // of the first team
}

func (w *world) get(_ context.Context, key string) ([]byte, error) {
	if b, ok := w.objects[key]; ok {
		return b, nil
	}
	return nil, fault.Newf(fault.NotFound, "get", key, "no such object")
}

func (w *world) put(writes []repository.Write) {
	for _, x := range writes {
		w.objects[x.Key] = x.Body
	}
}

// build makes a fleet; with audit its policy asks for a proof of each directive.
func build(ctx context.Context, s shape, audit bool, work string) (*world, error) {
	w := &world{objects: map[string][]byte{}, now: time.Now()}
	keys := make([]*signer.Signer, s.teams+3)
	for i := range keys {
		var err error
		if keys[i], err = signer.Ephemeral(); err != nil {
			return nil, err
		}
	}
	root, coordinator, timestamp, teams := keys[0], keys[1], keys[2], keys[3:]
	o := repository.InitOptions{
		Fleet: "bench", Now: w.now, Root: []signature.Signer{root}, Coordinator: coordinator.Public(), Timestamp: []crypto.PublicKey{timestamp.Public()},
	}
	for i, k := range teams {
		o.Teams = append(o.Teams, repository.Team{Name: team(i), Keys: []crypto.PublicKey{k.Public()}})
	}
	private := ""
	if audit {
		var err error
		if private, o.AuditKey, err = ledger.NewKey("bench"); err != nil {
			return nil, err
		}
	}
	var err error
	if w.genesis, err = repository.Init(o); err != nil {
		return nil, err
	}
	w.put(w.genesis.Writes)
	repo, err := repository.Open(ctx, w.get, repository.Options{Root: w.genesis.Root, Coordinator: coordinator, Timestamp: timestamp})
	if err != nil {
		return nil, err
	}
	d := fleet.Directive{Schema: fleet.DirectiveSchema, Group: fleet.DefaultGroup, Sequence: 1, Issued: w.now.UTC()}
	for i, k := range teams {
		rel, err := w.publish(ctx, repo, team(i), k, 0, s.releases, work)
		if err != nil {
			return nil, err
		}
		if i < s.named {
			d.Models = append(d.Models, fleet.Placement{Model: rel.Model, Stable: &rel})
		}
	}
	slices.SortFunc(d.Models, func(a, b fleet.Placement) int { return compare(a.Model, b.Model) })
	if audit {
		if err := prove(repo, d, private); err != nil {
			return nil, err
		}
	}
	pub, err := repo.Sign(d, w.now)
	if err != nil {
		return nil, err
	}
	w.put(pub.Writes)
	w.pack = pub.Packs[fleet.DefaultGroup]
	w.repo, w.directive, w.publisher = repo, d, teams[0]
	return w, nil
}

func team(i int) fleet.Team { return fleet.Team(fmt.Sprintf("team%02d", i)) }

func compare(a, b fleet.ModelName) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// publish has a team list so many more versions of its model, and returns the newest.
func (w *world) publish(ctx context.Context, repo *repository.Repository, name fleet.Team, key *signer.Signer, from, releases int, work string) (fleet.Release, error) {
	dir, err := os.MkdirTemp(work, "model")
	if err != nil {
		return fleet.Release{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "weights.safetensors"), []byte(name), 0o600); err != nil {
		return fleet.Release{}, err
	}
	man, err := oms.Hash(ctx, dir, oms.Options{Name: "model", Method: oms.Shards})
	if err != nil {
		return fleet.Release{}, err
	}
	bundle, err := oms.Sign(man, key)
	if err != nil {
		return fleet.Release{}, err
	}
	var c repository.Change
	for v := from; v < from+releases; v++ {
		r := fleet.Release{
			Team: name, Model: fleet.ModelName(name) + "-model", Version: fleet.Version(fmt.Sprintf("1.%d.0", v)), Counter: uint64(v + 1),
			Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: man.Size()}},
		}
		w.objects[r.BundlePath(fleet.DefaultVariant)] = bundle
		c.Add = append(c.Add, repository.Addition{Entry: trust.Entry{Release: r}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle}})
	}
	draft, err := repo.Draft(ctx, name)
	if err != nil {
		return fleet.Release{}, err
	}
	signed, err := draft.Next(c, w.now, key)
	if err != nil {
		return fleet.Release{}, err
	}
	w.put([]repository.Write{signed.Write})
	a, err := repo.Admit(ctx, name, w.now)
	if err != nil {
		return fleet.Release{}, err
	}
	w.put(a.Writes)
	for _, e := range a.Added {
		if e.Release.Version == c.Add[releases-1].Entry.Release.Version {
			if w.path == "" { // of the first team, which the directive always names
				w.path, w.bundle, w.key = e.Release.BundlePath(fleet.DefaultVariant), bundle, key.ECDSA()
			}
			return e.Release, nil
		}
	}
	return fleet.Release{}, fmt.Errorf("%s: its newest release was not admitted", name)
}

// prove puts the directive into a log of many entries and gives the repository the
// proof.
func prove(repo *repository.Repository, d fleet.Directive, private string) error {
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	digest := fleet.DigestOf(body)
	detail, err := json.Marshal(ledger.Directive{Group: d.Group, Sequence: d.Sequence, Digest: digest})
	if err != nil {
		return err
	}
	entry := ledger.Entry{At: d.Issued, Actor: "coordinator", Action: ledger.DirectiveIssued, Subject: string(d.Group), Detail: detail}
	leaf, _, err := entry.Leaf()
	if err != nil {
		return err
	}
	tree := &ledger.Tree{}
	for i := range logged {
		if err := tree.Append(fmt.Appendf(nil, "entry %d", i)); err != nil {
			return err
		}
	}
	if err := tree.Append(leaf); err != nil {
		return err
	}
	head, err := tree.Root(tree.Size())
	if err != nil {
		return err
	}
	key, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	checkpoint, err := ledger.Checkpoint{Origin: ledger.OriginOf("bench"), Size: tree.Size(), Root: head}.Sign(key)
	if err != nil {
		return err
	}
	path, err := tlog.ProveRecord(int64(tree.Size()), logged, tree)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(ledger.Proof{Checkpoint: checkpoint, Index: logged, Leaf: leaf, Path: path})
	if err != nil {
		return err
	}
	repo.Prove(digest, raw)
	return nil
}
