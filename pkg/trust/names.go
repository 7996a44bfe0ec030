package trust

import (
	"fmt"
	"path"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// The names in a fleet's TUF repository that are fixed.
const (
	// RoleFleet is the role of the coordinator: it signs directives.
	RoleFleet = "fleet"
	// PathDeviceCA is the policy's target that holds the certificates, in PEM,
	// which members' identities are issued under.
	PathDeviceCA = "trust/device-ca.pem"
	// PathRevoked is the policy's target that lists what no member may run or
	// speak to.
	PathRevoked = "trust/revoked.json"
	// PathAuditKey is the policy's target that holds the public key, in note
	// format, which signs the audit log's checkpoints. While it is listed, no
	// directive is valid without the proof that it is in the log.
	PathAuditKey = "trust/audit.vkey"
	// PathSigstoreRoot is the policy's target that holds the trusted root of the
	// Sigstore that keyless signatures are made with, and PathKeyless the one that
	// says which teams need such a signature, by whom. Both are the coordinator's
	// to heed at admission; members have no use for them, and packs leave them out.
	PathSigstoreRoot = "trust/sigstore-trusted-root.json"
	PathKeyless      = "trust/keyless.json"
	// FieldFleet is the policy's extra field that holds the fleet's name.
	FieldFleet = "x-fleet"
	// FieldHolders is the extra field of root and policy that says who holds their
	// keys: key id -> name. It is for people; nothing is decided by it.
	FieldHolders = "x-holders"
	// FieldFloor is a publisher role's extra field: model -> lowest counter
	// that may run, in decimal text.
	FieldFloor = "x-floor"
	// FieldIssued is the timestamp's extra field that says when it was signed:
	// a member whose clock is earlier than that knows that its clock is wrong.
	FieldIssued = "x-issued"
)

// RoleOf is the TUF role of a publisher.
func RoleOf(t fleet.Team) string { return "pub-" + string(t) }

// TeamPaths is the pattern of target paths that a publisher may list.
func TeamPaths(t fleet.Team) string { return "models/" + string(t) + "/*/*/*" }

// MetadataKey is the object key of a role's metadata. The timestamp alone has
// no version in its name and is overwritten; everything else is immutable.
func MetadataKey(role string, version int64) string {
	if role == "timestamp" {
		return "tuf/timestamp.json"
	}
	return fmt.Sprintf("tuf/%d.%s.json", version, role)
}

// TargetKey is the object key of a TUF target in consistent snapshots.
func TargetKey(target string, digest fleet.Digest) string {
	dir, name := path.Split(target)
	return "tuf/targets/" + dir + digest.String() + "." + name
}

// AuditProofs is where the proofs of directives are.
const AuditProofs = "audit/proof/"

// AuditProofKey is the object that proves a directive to be in the audit log that
// a public key signs: what packs carry as [Pack.Audit]. It is never changed,
// and removed some time after the directive is replaced.
func AuditProofKey(publicKey string, directive fleet.Digest) string {
	return AuditProofs + fleet.DigestOf([]byte(publicKey)).Short() + "/" + directive.String() + ".json"
}

// ParseBundlePath reads "models/TEAM/MODEL/VERSION/VARIANT.oms".
func ParseBundlePath(p string) (fleet.Release, string, error) {
	var r fleet.Release
	parts := strings.Split(p, "/")
	if len(parts) != 5 || parts[0] != "models" {
		return r, "", fmt.Errorf("path %q is not models/TEAM/MODEL/VERSION/VARIANT.oms", p)
	}
	variant, ok := strings.CutSuffix(parts[4], ".oms")
	if !ok {
		return r, "", fmt.Errorf("path %q does not end in .oms", p)
	}
	r.Team, r.Model, r.Version = fleet.Team(parts[1]), fleet.ModelName(parts[2]), fleet.Version(parts[3])
	return r, variant, checkNames(r, variant)
}

// checkNames applies the rules of package fleet to names that came from outside.
func checkNames(r fleet.Release, variants ...string) error {
	if _, err := fleet.ParseTeam(string(r.Team)); err != nil {
		return err
	}
	if _, err := fleet.ParseModelName(string(r.Model)); err != nil {
		return err
	}
	if _, err := fleet.ParseVersion(string(r.Version)); err != nil {
		return err
	}
	for _, v := range variants {
		if _, err := fleet.ParseModelName(v); err != nil {
			return fmt.Errorf("variant name: %w", err)
		}
	}
	return nil
}

// ForMembers reports whether packs carry a target of the policy.
func ForMembers(path string) bool { return path != PathSigstoreRoot && path != PathKeyless }
