package trust

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// chain is one repository's roles from the root down, as far as they are verified.
// It applies the rules of the TUF client workflow (specification 1.0, section 5,
// numbered in the comments) in that order. go-tuf decodes and checks signatures;
// only these two are remembered, see [Verifier]. The tests hold it to go-tuf's
// trustedmetadata, which applies the same rules and remembers nothing.
type chain struct {
	memory *memory
	at     time.Time // the time to judge by, fixed once; 5.1

	rekeyed   bool // some root gave timestamp or snapshot to other keys; 5.3.11
	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	policy    *metadata.Metadata[metadata.TargetsType]
	fleet     *metadata.Metadata[metadata.TargetsType]
}

// delegator is a role that says who signs another one.
type delegator interface {
	VerifyDelegate(role string, signed any) error
}

// signed decodes a role and checks its signatures, unless that was done before.
func signed[T metadata.Roles](m *memory, role string, raw []byte, grant fleet.Digest, by delegator) (*metadata.Metadata[T], error) {
	p := proof{role, fleet.DigestOf(raw), grant}
	if decoded, ok := m.recall(p, raw).(*metadata.Metadata[T]); ok {
		return decoded, nil
	}
	decoded, err := decode[T](role, raw, by)
	if err != nil {
		return nil, err
	}
	m.keep(p, raw, decoded)
	return decoded, nil
}

// decode is signed that remembers nothing. Without a delegator the role, which is
// a root then, vouches for itself.
func decode[T metadata.Roles](role string, raw []byte, by delegator) (*metadata.Metadata[T], error) {
	decoded, err := Decode[T](raw)
	if err != nil {
		return nil, err
	}
	if by == nil {
		by = decoded
	}
	return decoded, by.VerifyDelegate(role, decoded)
}

// pin begins with a root that is trusted already; 5.2.
func (c *chain) pin(raw []byte) (err error) {
	c.root, err = signed[metadata.RootType](c.memory, metadata.ROOT, raw, fleet.Digest{}, nil)
	return err
}

// nextRoot goes on to the next root; 5.3. That it may be past its expiry on the
// way is no harm: the last one is judged with the timestamp.
func (c *chain) nextRoot(raw []byte) error {
	grant, err := c.grant(metadata.ROOT)
	if err != nil {
		return err
	}
	next, err := signed[metadata.RootType](c.memory, metadata.ROOT, raw, grant, c.root) // 5.3.4: by the root before it
	if err != nil {
		return err
	}
	if want := c.root.Signed.Version + 1; next.Signed.Version != want { // 5.3.5
		return version(metadata.ROOT, want, next.Signed.Version)
	}
	if _, err := signed[metadata.RootType](c.memory, metadata.ROOT, raw, fleet.Digest{}, nil); err != nil { // 5.3.4: by itself
		return err
	}
	c.rekeyed = c.rekeyed || OnlineKeysChanged(c.root.Signed, next.Signed)
	c.root = next
	return nil
}

// newTimestamp takes up a timestamp; 5.4. It may be older than another one only
// if it is the first.
func (c *chain) newTimestamp(raw []byte) error {
	if c.root.Signed.IsExpired(c.at) { // 5.3.10
		return expired(metadata.ROOT)
	}
	grant, err := c.grant(metadata.TIMESTAMP)
	if err != nil {
		return err
	}
	t, err := signed[metadata.TimestampType](c.memory, metadata.TIMESTAMP, raw, grant, c.root) // 5.4.2
	if err != nil {
		return err
	}
	listed, err := fileOf(t.Signed.Meta, metadata.SNAPSHOT)
	if err != nil {
		return err
	}
	if old := c.timestamp; old != nil {
		switch had, newer := old.Signed.Version, t.Signed.Version; { // 5.4.3.1
		case newer < had:
			return version(metadata.TIMESTAMP, had, newer)
		case newer == had:
			return SameTimestamp(old.Signed, t.Signed)
		}
		if had := old.Signed.Meta[metadata.SNAPSHOT+".json"].Version; listed.Version < had { // 5.4.3.2
			return version(metadata.SNAPSHOT, had, listed.Version)
		}
	}
	c.timestamp = t
	return c.finalTimestamp()
}

// SameTimestamp compares two timestamps of one version. White space and signatures
// may differ, which whoever carries them can change; what is signed may not.
func SameTimestamp(a, b metadata.TimestampType) error {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if err := errors.Join(errX, errY); err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("two different timestamps have version %d: the repository shows different members different things", a.Version)
	}
	return nil
}

func (c *chain) finalTimestamp() error { // 5.4.4
	if c.timestamp.Signed.IsExpired(c.at) {
		return expired(metadata.TIMESTAMP)
	}
	return nil
}

// baseSnapshot takes a snapshot that was believed before as the one that no newer
// one may contradict, even if it is past its expiry or not the timestamp's.
func (c *chain) baseSnapshot(raw []byte) error {
	if err := c.finalTimestamp(); err != nil {
		return err
	}
	grant, err := c.grant(metadata.SNAPSHOT)
	if err != nil {
		return err
	}
	c.snapshot, err = signed[metadata.SnapshotType](c.memory, metadata.SNAPSHOT, raw, grant, c.root)
	return err
}

// newSnapshot takes up the timestamp's snapshot; 5.5.
func (c *chain) newSnapshot(raw []byte) error {
	if err := c.finalTimestamp(); err != nil {
		return err
	}
	listed, err := fileOf(c.timestamp.Signed.Meta, metadata.SNAPSHOT)
	if err != nil {
		return err
	}
	if err := listed.VerifyLengthHashes(raw); err != nil { // 5.5.2
		return err
	}
	grant, err := c.grant(metadata.SNAPSHOT)
	if err != nil {
		return err
	}
	next, err := signed[metadata.SnapshotType](c.memory, metadata.SNAPSHOT, raw, grant, c.root) // 5.5.3
	if err != nil {
		return err
	}
	if c.snapshot != nil { // 5.5.5
		for name, had := range c.snapshot.Signed.Meta {
			switch now := next.Signed.Meta[name]; {
			case now == nil:
				return &metadata.ErrRepository{Msg: "new snapshot is missing info for " + name}
			case had != nil && now.Version < had.Version:
				return version(name, had.Version, now.Version)
			}
		}
	}
	if next.Signed.Version != listed.Version { // 5.5.4
		return version(metadata.SNAPSHOT, listed.Version, next.Signed.Version)
	}
	if next.Signed.IsExpired(c.at) { // 5.5.6
		return expired(metadata.SNAPSHOT)
	}
	c.snapshot = next
	return nil
}

// newPolicy takes up the top targets role; 5.6.
func (c *chain) newPolicy(raw []byte) error {
	grant, err := c.grant(metadata.TARGETS)
	if err != nil {
		return err
	}
	c.policy, err = c.targets(metadata.TARGETS, raw, grant, c.root)
	return err
}

// newFleet takes up the coordinator's role; 5.6, as the policy delegates.
func (c *chain) newFleet(raw []byte) error {
	grant, err := c.delegated(RoleFleet)
	if err != nil {
		return err
	}
	c.fleet, err = c.targets(RoleFleet, raw, grant, c.policy)
	return err
}

func (c *chain) targets(role string, raw []byte, grant fleet.Digest, by delegator) (*metadata.Metadata[metadata.TargetsType], error) {
	listed, err := c.listed(role, raw)
	if err != nil {
		return nil, err
	}
	t, err := signed[metadata.TargetsType](c.memory, role, raw, grant, by) // 5.6.3
	if err != nil {
		return nil, err
	}
	return t, c.current(role, listed, t.Signed.Version, t.Signed.Expires)
}

// publisher is a publisher's role as it is signed.
type publisher struct {
	TeamRole
	keys   []*ecdsa.PublicKey
	broken error // why nothing can be read from it
}

// publisher takes up a publisher's role; 5.6, as the policy delegates. Of the role
// only what it says is kept, which takes a third of what it takes decoded.
func (c *chain) publisher(team fleet.Team, raw []byte) (*publisher, error) {
	role := RoleOf(team)
	grant, err := c.delegated(role)
	if err != nil {
		return nil, err
	}
	listed, err := c.listed(role, raw)
	if err != nil {
		return nil, err
	}
	id := proof{role, fleet.DigestOf(raw), grant}
	p, ok := c.memory.recall(id, raw).(*publisher)
	if !ok {
		t, err := decode[metadata.TargetsType](role, raw, c.policy) // 5.6.3
		if err != nil {
			return nil, err
		}
		p = &publisher{}
		if p.TeamRole, p.broken = ReadTeamRole(t); p.broken == nil {
			p.keys, p.broken = DelegatedKeys(c.policy.Signed.Delegations, role)
		}
		c.memory.keep(id, raw, p)
	}
	if err := c.current(role, listed, p.Version, p.Expires); err != nil {
		return nil, err
	}
	return p, nil
}

// listed is what the snapshot says of a role, which these bytes have to be; 5.6.2.
func (c *chain) listed(role string, raw []byte) (*metadata.MetaFiles, error) {
	f, err := fileOf(c.snapshot.Signed.Meta, role)
	if err != nil {
		return nil, err
	}
	return f, f.VerifyLengthHashes(raw)
}

// current judges a role of the snapshot by version and time; 5.6.4 and 5.6.5.
func (c *chain) current(role string, listed *metadata.MetaFiles, have int64, expires time.Time) error {
	switch {
	case have != listed.Version:
		return version(role, listed.Version, have)
	case c.at.After(expires):
		return expired(role)
	}
	return nil
}

// grant is what the root demands of a role.
func (c *chain) grant(role string) (fleet.Digest, error) { return rootGrant(c.root.Signed, role) }

func rootGrant(root metadata.RootType, role string) (fleet.Digest, error) {
	r := root.Roles[role]
	if r == nil {
		return fleet.Digest{}, fmt.Errorf("the root delegates nothing to %s", role)
	}
	return grantOf(role, r.Threshold, r.KeyIDs, root.Keys)
}

// OnlineKeysChanged reports whether two roots differ in what they demand of timestamp
// or snapshot: other keys, or another number of them. From then on versions and time
// begin anew, whatever former keys signed.
func OnlineKeysChanged(a, b metadata.RootType) bool {
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		was, errA := rootGrant(a, role)
		is, errB := rootGrant(b, role)
		if errA != nil || errB != nil || was != is {
			return true
		}
	}
	return false
}

// delegated is what the policy demands of a role.
func (c *chain) delegated(role string) (fleet.Digest, error) {
	d := c.policy.Signed.Delegations
	for _, r := range d.Roles {
		if r.Name == role {
			return grantOf(role, r.Threshold, r.KeyIDs, d.Keys)
		}
	}
	return fleet.Digest{}, fmt.Errorf("the policy delegates nothing to %s", role)
}

func fileOf(meta map[string]*metadata.MetaFiles, role string) (*metadata.MetaFiles, error) {
	if f := meta[role+".json"]; f != nil {
		return f, nil
	}
	return nil, &metadata.ErrRepository{Msg: "no version of " + role + " is listed"}
}

func expired(role string) error {
	return &metadata.ErrExpiredMetadata{Msg: role + " is expired"}
}

func version(name string, want, have int64) error {
	return &metadata.ErrBadVersionNumber{Msg: fmt.Sprintf("%s has version %d, not %d", name, have, want)}
}
