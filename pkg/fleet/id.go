package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// MemberID names a member: a device, or one execution environment of a function.
type MemberID string

// ModelName names a model. It is unique in a fleet: the first team that has a
// release of it admitted owns the name.
type ModelName string

// Team names a publisher; its TUF role is "pub-TEAM".
type Team string

// Version is a release's label, immutable once published.
type Version string

// RolloutID names one rollout; it salts every member's [Position].
type RolloutID string

// Group names the members that follow one directive.
type Group string

// DefaultGroup is the group of a fleet that was not divided.
const DefaultGroup Group = "default"

// names may appear as a path element, a TUF role suffix and a DNS label.
var names = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// versions may hold upper case and a plus sign as well: they are path elements only.
var versions = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._+-]{0,61}[A-Za-z0-9])?$`)

func parseName[T ~string](what, s string) (T, error) {
	if !names.MatchString(s) || strings.Contains(s, "..") {
		return "", fault.Newf(fault.Invalid, "read "+what, fmt.Sprintf("%q", s), "not a name").
			WithHint("use 1 to 63 of a-z 0-9 . _ -, beginning and ending with a letter or digit")
	}
	return T(s), nil
}

// ParseMemberID checks and returns a member id.
func ParseMemberID(s string) (MemberID, error) { return parseName[MemberID]("member id", s) }

// ParseModelName checks and returns a model name.
func ParseModelName(s string) (ModelName, error) { return parseName[ModelName]("model name", s) }

// ParseTeam checks and returns a team name.
func ParseTeam(s string) (Team, error) { return parseName[Team]("team", s) }

// ParseGroup checks and returns a group name.
func ParseGroup(s string) (Group, error) { return parseName[Group]("group", s) }

// ParseRolloutID checks and returns a rollout id.
func ParseRolloutID(s string) (RolloutID, error) { return parseName[RolloutID]("rollout id", s) }

// ParseVersion checks and returns a version label.
func ParseVersion(s string) (Version, error) {
	if !versions.MatchString(s) || strings.Contains(s, "..") {
		return "", fault.Newf(fault.Invalid, "read version", fmt.Sprintf("%q", s), "not a version label").
			WithHint("use 1 to 63 of A-Z a-z 0-9 . _ + -, for example 1.5.0")
	}
	return Version(s), nil
}

// Digest is a SHA-256 digest. Its text form is 64 lower-case hex digits.
type Digest [sha256.Size]byte

// DigestOf is the digest of b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads 64 lower-case hex digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return d, fault.Newf(fault.Invalid, "read digest", fmt.Sprintf("%q", s), "want 64 lower-case hex digits")
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fault.New(fault.Invalid, "read digest", fmt.Sprintf("%q", s), err)
	}
	return d, nil
}

// String is the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short is the digest's first 12 hex digits, for people.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText is the hex form; the zero digest is empty.
func (d Digest) MarshalText() ([]byte, error) {
	if d.IsZero() {
		return []byte{}, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText is the inverse of [Digest.MarshalText].
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	v, err := ParseDigest(string(b))
	if err == nil {
		*d = v
	}
	return err
}
