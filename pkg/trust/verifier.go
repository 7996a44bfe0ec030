package trust

import (
	"bytes"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Verifier verifies one pack after the other and remembers the roles of the last
// one it believed, so that of the next only what changed is decoded and has its
// signatures checked; mostly that is the timestamp. It decides exactly what
// [Verify] decides: what is remembered is only that certain bytes are properly
// signed by certain keys, which stays true. Everything that depends on the state,
// the time or another role is judged anew.
//
// The zero value is ready. It may be used by several goroutines.
type Verifier struct {
	mu    sync.Mutex
	known map[proof]any // decoded roles; neither the map nor what is in it is ever changed
}

// Verify is [Verify]. What it returns shares parts with what it returned before
// and will return: read it, and change nothing in it.
func (v *Verifier) Verify(pack []byte, st State, facts fleet.Facts, now time.Time) (Trusted, State, error) {
	v.mu.Lock()
	m := memory{known: v.known, used: map[proof]any{}}
	v.mu.Unlock()
	s := session{facts: facts, old: st, next: st, now: now.UTC(), chain: chain{memory: &m}}
	s.next.Teams = maps.Clone(st.Teams)
	if err := s.run(pack); err != nil {
		// Nothing is forgotten for a pack that was refused, and nothing learned.
		return Trusted{}, st, Violated(RuleFormat, "verify pack", string(facts.Group), err)
	}
	v.mu.Lock()
	v.known = m.used
	v.mu.Unlock()
	if s.out.Freshness == Stale {
		return s.out, st, nil
	}
	return s.out, s.next, nil
}

// maxRemembered caps the memory, in bytes of roles as they are signed. Decoded
// they take about twice that.
const maxRemembered = 1 << 20

// proof names what was proven: that these bytes are a role's, signed as the
// delegator demands.
type proof struct {
	role  string
	bytes fleet.Digest // of the role as it is signed
	grant fleet.Digest // what its delegator demands; see [grantOf]. Zero for a root that vouches for itself
}

// memory is what one verification knows from those before it, and what it hands on.
type memory struct {
	known, used map[proof]any
	size        int
}

// recall gives what was decoded from a role that is known to be signed so, or nil.
func (m *memory) recall(p proof, raw []byte) any {
	decoded := m.known[p]
	if decoded != nil {
		m.keep(p, raw, decoded)
	}
	return decoded
}

// keep remembers a role. Only what was verified may come here.
func (m *memory) keep(p proof, raw []byte, decoded any) {
	if _, ok := m.used[p]; ok || m.size+len(raw) > maxRemembered {
		return
	}
	m.used[p] = decoded
	m.size += len(raw)
}

// grantOf names what a delegator demands of a role: how many signatures, of which
// keys. Two delegators with the same grant accept the same signatures.
func grantOf(role string, threshold int, ids []string, keys map[string]*metadata.Key) (fleet.Digest, error) {
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "%q %d\n", role, threshold)
	for _, id := range sorted(ids) {
		k := keys[id]
		if k == nil {
			return fleet.Digest{}, fmt.Errorf("key %.12s of role %s is named and not there", id, role)
		}
		fmt.Fprintf(&buf, "%q %q %q %q\n", id, k.Type, k.Scheme, k.Value.PublicKey)
	}
	return fleet.DigestOf(buf.Bytes()), nil
}
