package ceremony

import (
	"crypto"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Verb says what is done to a role's keys.
type Verb string

// The verbs.
const (
	Rotate Verb = "rotate" // a key is replaced
	Add    Verb = "add"    // a key or a team comes
	Remove Verb = "remove" // a key or a team goes
	Renew  Verb = "renew"  // nothing changes but the expiry
)

// The roles that changes name, as people call them; a team's is pub-TEAM.
const (
	RoleRoot        = "root"
	RolePolicy      = "policy"
	RoleCoordinator = "coordinator" // signs directives and snapshots
	RoleTimestamp   = "timestamp"
)

// Holding is a public key and who holds it.
type Holding struct {
	Holder string
	Key    crypto.PublicKey
}

// Change is one change of who may sign what.
type Change struct {
	Verb      Verb
	Role      string
	Old       string    // a holder's name, or the beginning of a key's id
	New       []Holding // the keys that come
	Threshold int       // 0: stays
}

// Plan is what the next root and the next policy say; a nil one stays as it is.
type Plan struct {
	Root   *repository.RootChange
	Policy *repository.PolicyChange
}

const opPlan = "plan change of keys"

// Plan works out what a change means for root and policy.
func (m Metadata) Plan(c Change) (Plan, error) {
	now, err := m.parse()
	if err != nil {
		return Plan{}, trust.Violated(trust.RuleFormat, opPlan, c.Role, err)
	}
	p := planner{parsed: now, change: c, holders: map[string]string{}}
	for _, h := range c.New {
		id, err := repository.KeyID(h.Key)
		if err != nil {
			return Plan{}, fault.New(fault.Invalid, opPlan, c.Role, err)
		}
		p.holders[id] = h.Holder
	}
	plan, err := p.plan()
	if err != nil {
		if fault.Hint(err) == "" {
			err = fault.New(fault.KindOf(err), opPlan, c.Role, err).WithHint("`modelfleet key status` shows each role's keys and their holders")
		}
		return Plan{}, err
	}
	if plan.Root != nil {
		plan.Root.Holders = p.holders
	}
	if plan.Policy != nil {
		plan.Policy.Holders = p.holders
	}
	return plan, nil
}

type planner struct {
	parsed
	change  Change
	holders map[string]string
}

func (p planner) plan() (Plan, error) {
	switch role := p.change.Role; {
	case p.change.Verb == Renew:
		return p.renew()
	case role == RoleRoot:
		return p.root()
	case role == RolePolicy:
		keys, err := p.edit(p.top(metadata.TARGETS))
		return Plan{Root: &repository.RootChange{Policy: keys, PolicyThreshold: p.change.Threshold}, Policy: &repository.PolicyChange{}}, err
	case role == RoleCoordinator:
		return p.coordinator()
	case role == RoleTimestamp:
		if p.change.Threshold > 1 {
			return Plan{}, fault.Newf(fault.Invalid, opPlan, role, "its threshold is 1: whoever signs it does so alone")
		}
		keys, err := p.edit(p.top(metadata.TIMESTAMP))
		return Plan{Root: &repository.RootChange{Timestamp: keys}}, err
	case strings.HasPrefix(role, "pub-"):
		return p.team(fleet.Team(strings.TrimPrefix(role, "pub-")))
	}
	return Plan{}, fault.Newf(fault.Invalid, opPlan, p.change.Role, "there is no such role").
		WithHint("roles are root, policy, coordinator, timestamp, device-ca, audit and pub-TEAM")
}

func (p planner) renew() (Plan, error) {
	switch p.change.Role {
	case RoleRoot:
		return Plan{Root: &repository.RootChange{}}, nil
	case RolePolicy:
		return Plan{Policy: &repository.PolicyChange{}}, nil
	case "":
		return Plan{Root: &repository.RootChange{}, Policy: &repository.PolicyChange{}}, nil
	}
	return Plan{}, fault.Newf(fault.Invalid, opPlan, p.change.Role, "only root and policy are renewed by people").
		WithHint("the coordinator renews its own; a team's role is renewed by publishing")
}

// root changes root's keys. Those of the policy follow where they are the same
// people's.
func (p planner) root() (Plan, error) {
	root, policy := p.top(metadata.ROOT), p.top(metadata.TARGETS)
	together := slices.Equal(slices.Sorted(maps.Keys(root)), slices.Sorted(maps.Keys(policy)))
	keys, err := p.edit(root)
	if err != nil {
		return Plan{}, err
	}
	c := repository.RootChange{Root: keys, Threshold: p.change.Threshold}
	out := Plan{Root: &c}
	_, both := policy[p.find(root)]
	if p.change.Verb == Add && !together || p.change.Verb != Add && !both && !together {
		return out, nil
	}
	if c.Policy, err = p.edit(policy); err != nil {
		return Plan{}, fmt.Errorf("the policy's keys are the same people's: %w", err)
	}
	if roles := p.parsed.root.Signed.Roles; together && roles[metadata.ROOT].Threshold == roles[metadata.TARGETS].Threshold {
		c.PolicyThreshold = c.Threshold
	}
	if c.Policy != nil || c.PolicyThreshold > 0 {
		out.Policy = &repository.PolicyChange{} // its signatures must be those of its new keys
	}
	return out, nil
}

// coordinator gives directives and snapshots another key, and timestamps too where
// they were signed by the same.
func (p planner) coordinator() (Plan, error) {
	if p.change.Verb != Rotate || len(p.change.New) != 1 || p.change.Threshold > 1 {
		return Plan{}, fault.Newf(fault.Invalid, opPlan, RoleCoordinator, "it has one key, which can only be replaced").
			WithHint("modelfleet key rotate coordinator [--to KEY]")
	}
	key := p.change.New[0].Key
	c := repository.RootChange{Snapshot: []crypto.PublicKey{key}}
	stamps := p.top(metadata.TIMESTAMP)
	for id := range p.top(metadata.SNAPSHOT) {
		if _, same := stamps[id]; same {
			delete(stamps, id)
			c.Timestamp = append(publicKeys(stamps), key)
		}
	}
	return Plan{Root: &c, Policy: &repository.PolicyChange{Coordinator: key}}, nil
}

func (p planner) team(name fleet.Team) (Plan, error) {
	role := p.delegation(trust.RoleOf(name))
	switch {
	case role == nil && p.change.Verb != Add:
		return Plan{}, fault.Newf(fault.NotFound, opPlan, p.change.Role, "the policy knows no such team").
			WithHint("make one: modelfleet key add pub-%s KEY", name)
	case p.change.Verb == Remove && p.change.Old == "":
		return Plan{Policy: &repository.PolicyChange{Remove: []fleet.Team{name}}}, nil
	}
	team := repository.Team{Name: name, Threshold: max(1, p.change.Threshold)}
	keys := map[string]crypto.PublicKey{}
	if role != nil {
		if p.change.Threshold == 0 {
			team.Threshold = role.Threshold
		}
		keys = idsOf(role.KeyIDs, p.policy.Signed.Delegations.Keys)
	}
	edited, err := p.edit(keys)
	if edited == nil {
		edited = publicKeys(keys)
	}
	team.Keys = edited
	return Plan{Policy: &repository.PolicyChange{Teams: []repository.Team{team}}}, err
}

// edit applies the change to a role's keys; nil: they stay.
func (p planner) edit(keys map[string]crypto.PublicKey) ([]crypto.PublicKey, error) {
	c := p.change
	out := maps.Clone(keys)
	switch {
	case c.Verb == Rotate && c.Old == "" && len(c.New) == 0: // only the threshold, or nothing
		return nil, nil
	case c.Verb == Add && len(c.New) == 0, c.Verb == Rotate && len(c.New) != 1:
		return nil, fault.Newf(fault.Invalid, opPlan, c.Role, "no new key is given").WithHint("name a file of a public key, or awskms:///...")
	case c.Verb == Rotate && c.Old == "" && len(keys) == 1:
		clear(out)
	case c.Verb == Rotate || c.Verb == Remove:
		id := p.find(keys)
		if id == "" {
			return nil, fault.Newf(fault.NotFound, opPlan, c.Role, "%q is not one of its keys: %s", c.Old, p.list(keys)).
				WithHint("name a holder, or the beginning of a key's id")
		}
		delete(out, id)
	}
	for _, h := range c.New {
		id, err := repository.KeyID(h.Key)
		if err != nil {
			return nil, err
		}
		if _, there := keys[id]; there {
			return nil, fault.Newf(fault.Conflict, opPlan, c.Role, "key %s is one of its keys already: %s", Short(id), p.list(keys)).
				WithHint("each holder makes a key of their own: modelfleet key create FILE.pem")
		}
		out[id] = h.Key
	}
	return publicKeys(out), nil
}

// find is the id of the key that the change calls old, or "" unless there is
// exactly one.
func (p planner) find(keys map[string]crypto.PublicKey) string {
	var found []string
	for id := range keys {
		if old := p.change.Old; old != "" && (p.name(id) == old || len(old) >= 6 && strings.HasPrefix(id, old)) {
			found = append(found, id)
		}
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

func (p planner) name(id string) string {
	if name := Holders(p.parsed.root.Signed.UnrecognizedFields)[id]; name != "" {
		return name
	}
	return Holders(p.policy.Signed.UnrecognizedFields)[id]
}

func (p planner) list(keys map[string]crypto.PublicKey) string {
	var out []Key
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		out = append(out, Key{ID: id, Holder: p.name(id)})
	}
	return names(out, false)
}

// top is the keys of a role of root, by id.
func (p planner) top(role string) map[string]crypto.PublicKey {
	r := p.parsed.root.Signed.Roles[role]
	if r == nil {
		return map[string]crypto.PublicKey{}
	}
	return idsOf(r.KeyIDs, p.parsed.root.Signed.Keys)
}

func (p planner) delegation(role string) *metadata.DelegatedRole {
	roles := p.policy.Signed.Delegations.Roles
	if i := slices.IndexFunc(roles, func(r metadata.DelegatedRole) bool { return r.Name == role }); i >= 0 {
		return &roles[i]
	}
	return nil
}

func idsOf(ids []string, keys map[string]*metadata.Key) map[string]crypto.PublicKey {
	out := map[string]crypto.PublicKey{}
	for _, id := range ids {
		if k := keys[id]; k != nil {
			if pub, err := k.ToPublicKey(); err == nil { // the library read it with the metadata
				out[id] = pub
			}
		}
	}
	return out
}

func publicKeys(keys map[string]crypto.PublicKey) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		out = append(out, keys[id])
	}
	return out
}

// Make makes the ceremony of a plan; nobody has signed it yet.
func (m Metadata) Make(p Plan, now time.Time, life repository.Lifetimes) (*Ceremony, error) {
	c := &Ceremony{Schema: Schema, Before: m}
	if p.Root != nil {
		next, _, err := repository.NextRoot(m.Root, *p.Root, now, life)
		if err != nil {
			return nil, err
		}
		c.Next.Root = next
	}
	if p.Policy != nil {
		writes, err := repository.NextPolicy(m.Policy, *p.Policy, now, life)
		if err != nil {
			return nil, err
		}
		if err := c.take(writes); err != nil {
			return nil, err
		}
	}
	return c, c.made()
}

// Begin makes the ceremony of a new fleet.
func Begin(g repository.Genesis) (*Ceremony, error) {
	c := &Ceremony{Schema: Schema, Next: Metadata{Root: g.Root}}
	if err := c.take(g.Writes[1:]); err != nil {
		return nil, err
	}
	return c, c.made()
}

func (c *Ceremony) made() error {
	if err := c.check(); err != nil {
		return fault.New(fault.Invalid, opPlan, "", err)
	}
	return nil
}

// take finds the policy, which is written last, and its files among writes.
func (c *Ceremony) take(writes []repository.Write) error {
	last := len(writes) - 1
	c.Next.Policy = writes[last].Body
	policy, err := trust.Decode[metadata.TargetsType](c.Next.Policy)
	if err != nil {
		return trust.Violated(trust.RuleFormat, opPlan, "policy", err)
	}
	for path := range policy.Signed.Targets {
		for _, w := range writes[:last] {
			if w.Key == trust.TargetKey(path, fleet.DigestOf(w.Body)) {
				if c.Targets == nil {
					c.Targets = map[string][]byte{}
				}
				c.Targets[path] = w.Body
			}
		}
	}
	return nil
}

// KeyIDs are the ids of all keys that root and policy name.
func (m Metadata) KeyIDs() ([]string, error) {
	p, err := m.parse()
	if err != nil {
		return nil, trust.Violated(trust.RuleFormat, opPlan, "", err)
	}
	return slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Keys(p.root.Signed.Keys)), slices.Collect(maps.Keys(p.policy.Signed.Delegations.Keys))))), nil
}

// Holders is who holds which key, as root and policy say it.
func (m Metadata) Holders() (map[string]string, error) {
	p, err := m.parse()
	if err != nil {
		return nil, trust.Violated(trust.RuleFormat, opPlan, "", err)
	}
	out := Holders(p.policy.Signed.UnrecognizedFields)
	maps.Copy(out, Holders(p.root.Signed.UnrecognizedFields))
	return out, nil
}
