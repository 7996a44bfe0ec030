package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Rehearse performs a plan from beginning to end in memory, on a copy of the fleet
// in which a throwaway key stands for each key, with the same roles and
// thresholds: the least number of signatures is collected, root and policy are
// published, the coordinator signs with what it has then, and two members, one
// that ran before the change and one that joins with the old root after it, verify
// the pack as they would. It returns what was seen, line by line. An error says
// what would have happened to the fleet; or that there was nothing to rehearse on.
func Rehearse(ctx context.Context, m Metadata, targets map[string][]byte, p Plan, now time.Time) ([]string, error) {
	const op = "rehearse change of keys"
	r := &rehearsal{ctx: ctx, now: now, keys: map[string]*signer.Signer{}, bucket: map[string][]byte{}}
	before, state, err := r.setUp(m, targets)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), op, "", fmt.Errorf("the copy to rehearse on could not be made: %w", err)).
			WithHint("nothing was changed, and nothing was learnt about the change: `modelfleet doctor` says whether the fleet is whole")
	}
	seen, err := r.run(before, state, p)
	if err != nil {
		return seen, fault.New(fault.KindOf(err), op, "", err).
			WithHint("nothing was changed; the same would have happened to the fleet")
	}
	return seen, nil
}

type rehearsal struct {
	ctx    context.Context
	now    time.Time
	keys   map[string]*signer.Signer // by the id of the key that each stands for
	bucket map[string][]byte
}

// setUp makes the copy, and a member that runs in it.
func (r *rehearsal) setUp(m Metadata, targets map[string][]byte) (before Metadata, member trust.State, err error) {
	if before, err = r.copy(m, targets); err != nil {
		return before, member, err
	}
	pack, err := r.direct(before.Root, 1)
	if err != nil {
		return before, member, err
	}
	_, member, err = trust.Verify(pack, trust.State{Root: before.Root}, fleet.Facts{Group: fleet.DefaultGroup}, r.now)
	return before, member, err
}

// run performs the plan on the copy.
func (r *rehearsal) run(before Metadata, state trust.State, p Plan) ([]string, error) {
	var seen []string
	say := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	rest := trust.State{Root: before.Root}
	facts := fleet.Facts{Group: fleet.DefaultGroup}
	standIn, err := r.plan(p)
	if err != nil {
		return seen, err
	}
	c, err := before.Make(standIn, r.now, repository.Lifetimes{})
	if err != nil {
		return seen, err
	}
	signatures, err := r.sign(c)
	if err != nil {
		return seen, err
	}
	what := "keys"
	if signatures == 1 {
		what = "key"
	}
	say("signed by %d %s, not fewer: %s", signatures, what, c.Name())
	writes, err := c.Writes()
	if err != nil {
		return seen, err
	}
	for _, w := range writes {
		r.bucket[w.Key] = w.Body
	}
	pack, err := r.direct(before.Root, 2)
	if err != nil {
		return seen, err
	}
	say("the coordinator took it up and signed a directive")
	for who, state := range map[string]trust.State{"a member of before": state, "a member that joins with the root before": rest} {
		t, _, err := trust.Verify(pack, state, facts, r.now)
		if err != nil {
			return seen, fmt.Errorf("%s: %w", who, err)
		}
		if t.Freshness != trust.Fresh || t.Directive.Sequence != 2 {
			return seen, fault.Newf(fault.Untrusted, "verify pack", who, "it is %s at sequence %d", t.Freshness, t.Directive.Sequence)
		}
	}
	say("a member that ran before, and one that joins with the root before, believe it")
	return seen, nil
}

// standIn is the throwaway key for a key id.
func (r *rehearsal) standIn(id string) (*signer.Signer, error) {
	if r.keys[id] == nil {
		s, err := signer.Ephemeral()
		if err != nil {
			return nil, err
		}
		r.keys[id] = s
	}
	return r.keys[id], nil
}

func (r *rehearsal) standIns(ids []string) (signers []signature.Signer, pubs []crypto.PublicKey, err error) {
	for _, id := range ids {
		s, err := r.standIn(id)
		if err != nil {
			return nil, nil, err
		}
		signers, pubs = append(signers, s), append(pubs, s.Public())
	}
	return signers, pubs, nil
}

// copy is root and policy with other keys, signed, in the bucket.
func (r *rehearsal) copy(m Metadata, targets map[string][]byte) (Metadata, error) {
	p, err := m.parse()
	if err != nil {
		return Metadata{}, trust.Violated(trust.RuleFormat, opPlan, "", err)
	}
	root := p.root
	ids := map[string][]string{}
	for role, keys := range root.Signed.Roles {
		ids[role] = slices.Clone(keys.KeyIDs)
	}
	for role, old := range ids {
		for _, id := range old {
			if err := root.Signed.RevokeKey(id, role); err != nil {
				return Metadata{}, err
			}
		}
		_, pubs, err := r.standIns(old)
		if err != nil {
			return Metadata{}, err
		}
		for _, pub := range pubs {
			key, err := metadata.KeyFromPublicKey(pub)
			if err != nil {
				return Metadata{}, err
			}
			if err := root.Signed.AddKey(key, role); err != nil {
				return Metadata{}, err
			}
		}
	}
	root.Signed.Expires = r.now.Add(24 * time.Hour).UTC().Truncate(time.Second)
	rootSigners, _, err := r.standIns(ids[metadata.ROOT])
	if err != nil {
		return Metadata{}, err
	}
	var out Metadata
	if out.Root, err = signAll(root, rootSigners); err != nil {
		return out, err
	}
	policySigners, _, err := r.standIns(ids[metadata.TARGETS])
	if err != nil {
		return out, err
	}
	if out.Policy, err = r.copyPolicy(p.policy, targets, policySigners); err != nil {
		return out, err
	}
	r.bucket[trust.MetadataKey(metadata.ROOT, root.Signed.Version)] = out.Root
	// A bucket without a snapshot is read from the first policy on; what lies there
	// under another version is passed over.
	for v := int64(1); v <= p.policy.Signed.Version; v++ {
		r.bucket[trust.MetadataKey(metadata.TARGETS, v)] = out.Policy
	}
	return out, nil
}

func (r *rehearsal) copyPolicy(m *metadata.Metadata[metadata.TargetsType], targets map[string][]byte, signers []signature.Signer) (json.RawMessage, error) {
	d := m.Signed.Delegations
	d.Keys = map[string]*metadata.Key{}
	for i := range d.Roles {
		_, pubs, err := r.standIns(d.Roles[i].KeyIDs)
		if err != nil {
			return nil, err
		}
		d.Roles[i].KeyIDs = nil
		for _, pub := range pubs {
			key, err := metadata.KeyFromPublicKey(pub)
			if err != nil {
				return nil, err
			}
			id, err := key.ID()
			if err != nil {
				return nil, err
			}
			d.Keys[id], d.Roles[i].KeyIDs = key, append(d.Roles[i].KeyIDs, id)
		}
	}
	// The audit log's proofs are its own key's, which this copy does without.
	delete(m.Signed.Targets, trust.PathAuditKey)
	for path := range m.Signed.Targets {
		r.bucket[trust.TargetKey(path, fleet.DigestOf(targets[path]))] = targets[path]
	}
	m.Signed.Expires = r.now.Add(24 * time.Hour).UTC().Truncate(time.Second)
	return signAll(m, signers)
}

func signAll[T metadata.Roles](m *metadata.Metadata[T], signers []signature.Signer) (json.RawMessage, error) {
	m.ClearSignatures()
	for _, s := range signers {
		if _, err := m.Sign(s); err != nil {
			return nil, err
		}
	}
	return m.ToBytes(false)
}

// plan is p with throwaway keys.
func (r *rehearsal) plan(p Plan) (Plan, error) {
	var failed error
	swap := func(keys []crypto.PublicKey) []crypto.PublicKey {
		var out []crypto.PublicKey
		for _, key := range keys {
			id, err := repository.KeyID(key)
			var s *signer.Signer
			if err == nil {
				s, err = r.standIn(id)
			}
			if err != nil {
				failed = err
				continue
			}
			out = append(out, s.Public())
		}
		return out
	}
	var out Plan
	if p.Root != nil {
		c := *p.Root
		c.Root, c.Policy, c.Snapshot, c.Timestamp = swap(c.Root), swap(c.Policy), swap(c.Snapshot), swap(c.Timestamp)
		out.Root = &c
	}
	if p.Policy != nil {
		c := *p.Policy
		c.AuditKey = ""
		if c.Coordinator != nil {
			if one := swap([]crypto.PublicKey{c.Coordinator}); one != nil {
				c.Coordinator = one[0]
			}
		}
		c.Teams = slices.Clone(c.Teams)
		for i := range c.Teams {
			c.Teams[i].Keys = swap(c.Teams[i].Keys)
		}
		out.Policy = &c
	}
	return out, failed
}

// sign collects signatures until there are enough, and makes sure that one fewer
// is not.
func (r *rehearsal) sign(c *Ceremony) (int, error) {
	n := 0
	for _, id := range slices.Sorted(maps.Keys(r.keys)) {
		if c.Complete() == nil {
			break
		}
		s := r.keys[id]
		mine, err := repository.KeyID(s.Public())
		if err != nil {
			return n, err
		}
		wanted := slices.ContainsFunc(c.Parties(), func(p Party) bool {
			return p.Missing() > 0 && slices.ContainsFunc(p.Keys, func(k Key) bool { return k.ID == mine && !k.Signed })
		})
		if !wanted {
			continue
		}
		if _, err := c.Writes(); err == nil {
			return n, fault.Newf(fault.Internal, "rehearse", c.Name(), "%d signatures were enough already", n)
		}
		if _, err := c.Sign(s); err != nil {
			return n, err
		}
		n++
	}
	return n, c.Complete()
}

// direct opens the bucket from the root before, with the keys that sign now, and
// signs a directive.
func (r *rehearsal) direct(root []byte, sequence uint64) ([]byte, error) {
	get := func(_ context.Context, key string) ([]byte, error) {
		if body, ok := r.bucket[key]; ok {
			return bytes.Clone(body), nil
		}
		return nil, fault.Newf(fault.NotFound, "read", key, "it is not there")
	}
	reader, err := repository.Open(r.ctx, get, repository.Options{Root: root})
	if err != nil {
		return nil, err
	}
	newest, err := trust.Decode[metadata.RootType](reader.Root())
	if err != nil {
		return nil, err
	}
	holding := func(role string) signature.Signer {
		for _, s := range r.keys {
			if id, err := repository.KeyID(s.Public()); err == nil && slices.Contains(newest.Signed.Roles[role].KeyIDs, id) {
				return s
			}
		}
		return nil
	}
	repo, err := repository.Open(r.ctx, get, repository.Options{Root: root, Coordinator: holding(metadata.SNAPSHOT), Timestamp: holding(metadata.TIMESTAMP)})
	if err != nil {
		return nil, err
	}
	pub, err := repo.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: sequence, Issued: r.now}, r.now)
	if err != nil {
		return nil, err
	}
	for _, w := range pub.Writes {
		r.bucket[w.Key] = w.Body
	}
	return pub.Packs[fleet.DefaultGroup], nil
}
