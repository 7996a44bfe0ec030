package repository

import (
	"fmt"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Stray is an object under the name of the next root that the keepers of root did not
// sign. It changes nothing: a ceremony writes over it.
type Stray struct {
	Key  string
	Body []byte
	Err  error // why it is no root
}

// Stray is what lies in place of the next root, as it was seen last; nil when nothing
// does.
func (r *Repository) Stray() *Stray {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stray
}

// Junk says why an object that lies under the name of a version of root or policy
// is none, so that nobody ever believed it and it may be written over: it is no
// metadata, of another version, or not signed by enough of its keepers. It is "" for
// one that counts. The next root counts by the keys of the newest one here, a policy
// by those of any root.
func (r *Repository) Junk(role string, version int64, raw []byte) (why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch role {
	case metadata.ROOT:
		m, err := trust.Decode[metadata.RootType](raw)
		if err != nil {
			return fmt.Sprintf("%d bytes that are no metadata of %s", len(raw), role)
		}
		return r.unsigned(role, version, m.Signed.Version, m, m.Signatures, r.root.VerifyDelegate(role, m))
	case metadata.TARGETS:
		m, err := trust.Decode[metadata.TargetsType](raw)
		if err != nil {
			return fmt.Sprintf("%d bytes that are no metadata of %s", len(raw), role)
		}
		return r.unsigned(role, version, m.Signed.Version, m, m.Signatures, r.signedByAnyRoot(role, m))
	}
	return ""
}

func (r *Repository) unsigned(role string, want, has int64, m any, sigs []metadata.Signature, err error) string {
	if has != want {
		return fmt.Sprintf("metadata of %s that says version %d, not %d", role, has, want)
	}
	if err == nil {
		return ""
	}
	need := r.root.Signed.Roles[role]
	by := []string{}
	for _, s := range sigs {
		alone := metadata.Root()
		alone.Signed.Keys = r.root.Signed.Keys
		alone.Signed.Roles = map[string]*metadata.Role{role: {KeyIDs: []string{s.KeyID}, Threshold: 1}}
		if slices.Contains(need.KeyIDs, s.KeyID) && alone.VerifyDelegate(role, m) == nil {
			by = append(by, short(s.KeyID))
		}
	}
	signed := "by none of its keepers"
	if len(by) > 0 {
		signed = "by " + strings.Join(by, ", ") + " alone"
	}
	return fmt.Sprintf("metadata of %s that is signed %s, and %d of them are needed", role, signed, need.Threshold)
}
