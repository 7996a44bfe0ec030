package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Freshness says whether what was verified may be acted on.
type Freshness uint8

// The degrees of freshness.
const (
	Fresh Freshness = iota // act on it
	Stale                  // authentic, but past its expiry: serve what you have, change nothing
)

// String is the name shown to people.
func (f Freshness) String() string {
	if f == Stale {
		return "stale"
	}
	return "fresh"
}

// Trusted is what a pack proved.
type Trusted struct {
	Fleet     string // the fleet's name
	Freshness Freshness
	Expires   time.Time     // when it becomes stale
	Expired   string        // the role that made it stale, or ""
	Issued    time.Time     // when the timestamp was signed
	At        time.Time     // the time it was judged by
	Behind    time.Duration // how far the clock lies behind the time that is proven; 0 when it does not

	// Directive holds the placements that publishers back. A placement whose
	// stable release is refused is left out; one whose rollout is refused
	// keeps its stable release. For the models in Refused that are left out,
	// keep what is there.
	Directive fleet.Directive
	Digest    fleet.Digest // of the directive's bytes
	Refused   []Refusal
	Releases  map[string]Backing // by bundle path
	// Teams are the publishers whose roles in the pack are in force. See
	// [Trusted.Revokes].
	Teams map[fleet.Team]Publisher
	// Kept are the models of which a revoked release is served on when nothing
	// else may run.
	Kept []fleet.ModelName

	FleetKeys []*ecdsa.PublicKey  // of the fleet role: who may say the time, too
	DeviceCA  []*x509.Certificate // members' identities are issued under these
	Revoked   Revoked
	Log       Log              // what is proven of the audit log; zero while the policy lists no audit key
	Versions  map[string]int64 // of every role used
}

// Refusal is a release that the directive names and no publisher backs.
type Refusal struct {
	Model   fleet.ModelName
	Release string // "detector@1.5.0"
	Held    bool   // nothing is said to members outside the rollout: they keep what they have
	Revoked bool   // it was taken back, and not only unproven: who runs it leaves it
	Err     error  // Untrusted, with the rule
}

// Revoked lists what the policy takes back at once.
type Revoked struct {
	Releases []fleet.Digest   `json:"releases,omitempty"` // OMS root digests
	Members  []fleet.MemberID `json:"members,omitempty"`
}

// Backing is a publisher's word for one variant of a release.
type Backing struct {
	Entry Entry // its Release has just the one variant
	Keys  []*ecdsa.PublicKey
}

// VerifyBundle returns what the OMS bundle says if it is the one the publisher
// lists, signed by one of its keys.
func (b Backing) VerifyBundle(bundle []byte) (oms.Manifest, error) {
	r := b.Entry.Release
	m, err := b.verifyBundle(bundle)
	if err != nil {
		return oms.Manifest{}, Violated(RuleBundle, "verify bundle", r.Ref(), err)
	}
	return m, nil
}

func (b Backing) verifyBundle(bundle []byte) (oms.Manifest, error) {
	v := b.Entry.Release.Variants[0]
	if got := fleet.DigestOf(bundle); got != v.Bundle {
		return oms.Manifest{}, fmt.Errorf("the bundle has digest %s, the publisher lists %s", got.Short(), v.Bundle.Short())
	}
	parsed, err := oms.Parse(bundle)
	if err != nil {
		return oms.Manifest{}, err
	}
	m, err := parsed.VerifyKey(b.Keys...)
	switch {
	case err != nil:
		return oms.Manifest{}, err
	case fleet.Digest(m.Root) != v.Root:
		return oms.Manifest{}, fmt.Errorf("the bundle has root digest %s, the publisher lists %s", m.Root, v.Root)
	case m.Size() >= 0 && m.Size() != v.Size:
		return oms.Manifest{}, fmt.Errorf("the bundle covers %d bytes, the publisher lists %d", m.Size(), v.Size)
	}
	return m, nil
}

// Verify decides what a pack proves to the member with the given state and
// facts at time now. It is pure. An error is a fault of kind Untrusted whose
// [RuleOf] names the rule broken; the state is then returned as it was, and so
// it is when the pack is authentic but stale.
//
// Who verifies one pack after the other does it with one [Verifier].
func Verify(pack []byte, st State, facts fleet.Facts, now time.Time) (Trusted, State, error) {
	return new(Verifier).Verify(pack, st, facts, now)
}

// session is one verification.
type session struct {
	facts fleet.Facts
	now   time.Time
	old   State
	next  State
	out   Trusted

	pack  Pack
	chain chain
	teams map[fleet.Team]*teamRole
}

// run applies the rules in their order. Each step may rely on those before it.
func (s *session) run(pack []byte) (err error) {
	if s.pack, err = DecodePack(pack); err != nil { // size cap, strict decoding
		return err
	}
	steps := [...]struct {
		rule Rule
		do   func() error
	}{
		{RuleRoot, s.roots},           // roots in order from the pinned one
		{RuleState, s.clock},          // the time to judge by; fresh or stale
		{RuleTimestamp, s.timestamp},  // not older than the stored one
		{RuleSnapshot, s.snapshot},    // the timestamp's, nothing in it older
		{RulePolicy, s.policy},        // the snapshot's, signed as root says
		{RuleFleet, s.fleetRole},      // the snapshot's, signed as the policy says
		{RuleDirective, s.directive},  // the fleet role's; own group; sequence
		{RulePublisher, s.placements}, // each release backed by its publisher
		{RuleAudit, s.audit},          // the directive is in the audit log, and the log is the one seen before
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return Violated(step.rule, "check "+string(step.rule), "", err)
		}
	}
	return nil
}

// roots walks from the stored root to the newest in the pack.
func (s *session) roots() error {
	if err := s.chain.pin(s.old.Root); err != nil {
		return broken(RuleState, "stored root: %w", err)
	}
	for _, raw := range s.pack.Roots {
		head, err := peek(raw)
		if err != nil {
			return err
		}
		switch have := s.chain.root.Signed.Version; {
		case head.Version <= have:
			continue
		case head.Version > have+1:
			return fmt.Errorf("root %d is missing between %d and %d", have+1, have, head.Version)
		}
		if err := s.chain.nextRoot(raw); err != nil {
			return err
		}
		s.next.Root = bytes.Clone(raw)
	}
	return nil
}

// clock fixes the time the session is judged by, and finds whether anything is
// past its expiry then. If so the metadata is still authenticated, as of the
// last moment at which all of it was valid, and reported as stale.
func (s *session) clock() error {
	if s.chain.rekeyed {
		// Fast-forward recovery: what the old keys said of versions and of
		// the time binds nobody.
		s.old.Timestamp, s.old.Snapshot, s.old.Floor = nil, nil, time.Time{}
		s.next.Floor = time.Time{}
	}
	s.out.At = s.now
	if s.old.Floor.After(s.now) {
		s.out.At, s.out.Behind = s.old.Floor, s.old.Floor.Sub(s.now)
	}
	s.out.Expires, s.out.Expired = s.chain.root.Signed.Expires, metadata.ROOT
	for _, part := range []struct {
		name string
		raw  json.RawMessage
	}{{metadata.TIMESTAMP, s.pack.Timestamp}, {metadata.SNAPSHOT, s.pack.Snapshot}, {metadata.TARGETS, s.pack.Policy}, {RoleFleet, s.pack.Fleet}} {
		head, err := peek(part.raw)
		if err != nil {
			return broken(RuleFormat, "%s: %w", part.name, err)
		}
		if part.name == metadata.TIMESTAMP && head.Issued.After(s.out.At) && head.Expires.After(head.Issued) {
			// Signed later than our clock says: the clock is behind. Not
			// believed until the timestamp is verified, which comes next.
			s.out.At, s.out.Behind = head.Issued, head.Issued.Sub(s.now)
		}
		if head.Expires.Before(s.out.Expires) {
			s.out.Expires, s.out.Expired = head.Expires, part.name
		}
	}
	s.chain.at = s.out.At
	if s.out.Expires.After(s.out.At) {
		s.out.Expired = ""
		return nil
	}
	s.out.Freshness = Stale
	s.chain.at = s.out.Expires.Add(-time.Second)
	return nil
}

func (s *session) timestamp() error {
	if len(s.old.Timestamp) > 0 {
		if err := s.chain.newTimestamp(s.old.Timestamp); err != nil && !errors.Is(err, &metadata.ErrExpiredMetadata{}) {
			return broken(RuleState, "stored timestamp: %w", err)
		}
	}
	seen := s.chain.timestamp
	err := s.chain.newTimestamp(s.pack.Timestamp)
	switch {
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		if old, perr := peek(s.pack.Timestamp); perr == nil {
			return fmt.Errorf("the pack is older than one seen before: timestamp %d, signed %s; timestamp %d was seen",
				old.Version, old.Issued.Format(time.RFC3339), s.chain.timestamp.Signed.Version)
		}
		return err
	case err != nil:
		return err
	}
	if text, ok := s.chain.timestamp.Signed.UnrecognizedFields[FieldIssued].(string); ok {
		if s.out.Issued, err = time.Parse(time.RFC3339, text); err != nil {
			return broken(RuleFormat, "%s: %w", FieldIssued, err)
		}
	}
	if s.out.Issued.After(s.next.Floor) {
		s.next.Floor = s.out.Issued
	}
	if s.chain.timestamp != seen { // else the stored one stays: the pack may hold another form of it
		s.next.Timestamp = s.pack.Timestamp
	}
	return nil
}

func (s *session) snapshot() error {
	if len(s.old.Snapshot) > 0 {
		if err := s.chain.baseSnapshot(s.old.Snapshot); err != nil {
			return broken(RuleState, "stored snapshot: %w", err)
		}
	}
	if err := s.chain.newSnapshot(s.pack.Snapshot); err != nil {
		return err
	}
	s.next.Snapshot = s.pack.Snapshot
	return nil
}

// policy loads the top targets role and the files it lists.
func (s *session) policy() error {
	if err := s.chain.newPolicy(s.pack.Policy); err != nil {
		return err
	}
	p := s.chain.policy.Signed
	if p.Delegations == nil || p.Delegations.SuccinctRoles != nil {
		return errors.New("it delegates nothing, or by succinct roles")
	}
	seen := map[string]bool{}
	for _, r := range p.Delegations.Roles {
		if seen[r.Name] {
			return fmt.Errorf("role %s is delegated twice", r.Name)
		}
		seen[r.Name] = true
	}
	s.out.Fleet, _ = p.UnrecognizedFields[FieldFleet].(string)
	for path, target := range p.Targets {
		if !ForMembers(path) {
			continue
		}
		body, ok := s.pack.Targets[path]
		if !ok {
			return broken(RuleFormat, "the pack lacks %s", path)
		}
		if err := checkTarget(target, body); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		switch path {
		case PathDeviceCA:
			certs, err := parseCertificates(body)
			if err != nil {
				return broken(RuleFormat, "%s: %w", path, err)
			}
			s.out.DeviceCA = certs
		case PathRevoked:
			if err := oms.DecodeStrict(body, &s.out.Revoked); err != nil {
				return broken(RuleFormat, "%s: %w", path, err)
			}
		}
	}
	return nil
}

func (s *session) fleetRole() error {
	if err := s.onlyRole(s.facts.Group.TargetPath(), RoleFleet); err != nil {
		return err
	}
	if err := s.chain.newFleet(s.pack.Fleet); err != nil {
		return err
	}
	keys, err := DelegatedKeys(s.chain.policy.Signed.Delegations, RoleFleet)
	if err != nil {
		return err
	}
	s.out.FleetKeys = keys
	return nil
}

// onlyRole checks that the policy delegates path to role and to no other: the
// library's verifier does not look at delegation paths.
func (s *session) onlyRole(path, role string) error {
	return onlyRole(s.chain.policy.Signed.Delegations, path, role)
}

func onlyRole(d *metadata.Delegations, path, role string) error {
	roles := d.GetRolesForTarget(path)
	if len(roles) != 1 || roles[0].Name != role || !roles[0].Terminating {
		names := []string{}
		for _, r := range roles {
			names = append(names, r.Name)
		}
		return broken(RulePath, "the policy delegates %s to %v, not to %s alone", path, names, role)
	}
	return nil
}

// directive checks the bytes against the fleet role, then what they say.
func (s *session) directive() error {
	target := s.chain.fleet.Signed.Targets[s.facts.Group.TargetPath()]
	if target == nil {
		return broken(RuleGroup, "the fleet role has no directive for group %s", s.facts.Group)
	}
	if err := checkTarget(target, s.pack.Directive); err != nil {
		return err
	}
	d, err := ParseDirective(s.pack.Directive)
	if err != nil {
		return err
	}
	if d.Group != s.facts.Group {
		return broken(RuleGroup, "the directive is for group %s, this member is of %s", d.Group, s.facts.Group)
	}
	s.out.Directive, s.out.Digest = d, fleet.DigestOf(s.pack.Directive)
	s.next.FleetKeys = s.delegatedKeys(RoleFleet)
	if s.old.FleetKeys == s.next.FleetKeys {
		switch {
		case d.Sequence < s.old.Sequence:
			return broken(RuleSequence, "directive %d is older than %d, which was seen", d.Sequence, s.old.Sequence)
		case d.Sequence == s.old.Sequence && s.out.Digest != s.old.Directive:
			return broken(RuleSequence, "two different directives have sequence %d", d.Sequence)
		}
	}
	s.next.Sequence, s.next.Directive = d.Sequence, s.out.Digest
	s.out.Versions = map[string]int64{
		metadata.ROOT: s.chain.root.Signed.Version, metadata.TIMESTAMP: s.chain.timestamp.Signed.Version,
		metadata.SNAPSHOT: s.chain.snapshot.Signed.Version, metadata.TARGETS: s.chain.policy.Signed.Version, RoleFleet: s.chain.fleet.Signed.Version,
	}
	return nil
}

// delegatedKeys names the keys the policy gives a role.
func (s *session) delegatedKeys(role string) fleet.Digest {
	d := s.chain.policy.Signed.Delegations
	for _, r := range d.Roles {
		if r.Name == role {
			return keySet(r.KeyIDs, d.Keys)
		}
	}
	return fleet.Digest{}
}

// head is what is read of metadata before it is verified.
type head struct {
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
	Issued  time.Time `json:"x-issued"`
}

func peek(raw json.RawMessage) (head, error) {
	var m struct {
		Signed head `json:"signed"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return head{}, broken(RuleFormat, "%w", err)
	}
	return m.Signed, nil
}

// checkTarget is [metadata.TargetFiles.VerifyLengthHashes] that insists on SHA-256.
func checkTarget(t *metadata.TargetFiles, body []byte) error {
	if t == nil || len(t.Hashes["sha256"]) != len(fleet.Digest{}) {
		return errors.New("listed without a SHA-256 digest")
	}
	return t.VerifyLengthHashes(body)
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("not certificates in PEM")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs, data = append(certs, c), rest
	}
	return certs, nil
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
