package ceremony

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Part is what one of the files says, for whoever is asked to sign it.
type Part struct {
	File    string    `json:"file"` // "root" or "policy"
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
	Says    []Says    `json:"says"`
}

// Says is one role or one listed file.
type Says struct {
	What   string   `json:"what"`   // "root", "the coordinator's directives", "releases of team vision"
	Now    string   `json:"now"`    // "2 of ana (1f…), ben (2c…), cy (99…)"
	Change []string `json:"change"` // what was otherwise before; none: as before
}

// Describe says in words what is signed, and what is otherwise than before.
func (c *Ceremony) Describe() []Part {
	var out []Part
	if n := c.next.root; n != nil {
		p := Part{File: "root", Version: n.Signed.Version, Expires: n.Signed.Expires}
		holders := Holders(n.Signed.UnrecognizedFields)
		var was []stand
		if b := c.before.root; b != nil {
			was = rootStands(b, Holders(b.Signed.UnrecognizedFields))
		}
		p.Says = differences(rootStands(n, holders), was, c.Begins())
		out = append(out, p)
	}
	if n := c.next.policy; n != nil {
		p := Part{File: "policy", Version: n.Signed.Version, Expires: n.Signed.Expires}
		var was []stand
		if b := c.before.policy; b != nil {
			was = policyStands(b)
		}
		p.Says = append(differences(policyStands(n), was, c.Begins()), c.files()...)
		out = append(out, p)
	}
	return out
}

// teamStand begins what is said of a team's role.
const teamStand = "releases of team "

// stand is a role: what it is for, and who may sign it.
type stand struct {
	what      string
	threshold int
	keys      []Key
}

func (s stand) String() string { return fmt.Sprintf("%d of %s", s.threshold, names(s.keys, false)) }

func rootStands(m *metadata.Metadata[metadata.RootType], holders map[string]string) []stand {
	var out []stand
	for _, r := range []struct{ role, what string }{
		{metadata.ROOT, "root itself"}, {metadata.TARGETS, "the policy"},
		{metadata.SNAPSHOT, "the coordinator's snapshots"}, {metadata.TIMESTAMP, "the timestamp"},
	} {
		if role := m.Signed.Roles[r.role]; role != nil {
			out = append(out, stand{what: r.what, threshold: role.Threshold, keys: keysOf(role.KeyIDs, holders)})
		}
	}
	return out
}

func policyStands(m *metadata.Metadata[metadata.TargetsType]) []stand {
	holders := Holders(m.Signed.UnrecognizedFields)
	var out []stand
	for _, d := range m.Signed.Delegations.Roles {
		what := "role " + d.Name
		if d.Name == trust.RoleFleet {
			what = "the coordinator's directives"
		} else if team, ok := strings.CutPrefix(d.Name, "pub-"); ok {
			what = teamStand + team
		}
		if len(d.Paths) != 1 || d.Name == trust.RoleFleet && d.Paths[0] != "fleet/*" || d.Name != trust.RoleFleet && d.Paths[0] != trust.TeamPaths(fleet.Team(strings.TrimPrefix(d.Name, "pub-"))) {
			what += " (over UNUSUAL paths " + strings.Join(d.Paths, ", ") + ")"
		}
		out = append(out, stand{what: what, threshold: d.Threshold, keys: keysOf(d.KeyIDs, holders)})
	}
	slices.SortFunc(out, func(a, b stand) int { return strings.Compare(a.what, b.what) })
	return out
}

func keysOf(ids []string, holders map[string]string) []Key {
	var out []Key
	for _, id := range slices.Sorted(slices.Values(ids)) {
		out = append(out, Key{ID: id, Holder: holders[id]})
	}
	slices.SortStableFunc(out, func(a, b Key) int { return strings.Compare(a.Holder, b.Holder) })
	return out
}

// differences lists what stands, with what each stands otherwise than before, and
// what is gone.
func differences(now, was []stand, begins bool) []Says {
	var out []Says
	for _, n := range now {
		s := Says{What: n.what, Now: n.String()}
		i := slices.IndexFunc(was, func(w stand) bool { return w.what == n.what })
		switch {
		case begins:
		case i < 0:
			s.Change = []string{"new"}
		default:
			s.Change = difference(n, was[i])
		}
		out = append(out, s)
	}
	for _, w := range was {
		if !slices.ContainsFunc(now, func(n stand) bool { return n.what == w.what }) {
			out = append(out, Says{What: w.what, Now: "nobody any more", Change: []string{"gone; it was " + w.String()}})
		}
	}
	return out
}

func difference(now, was stand) []string {
	var out []string
	has := func(s stand, id string) bool {
		return slices.ContainsFunc(s.keys, func(k Key) bool { return k.ID == id })
	}
	for _, k := range was.keys {
		if !has(now, k.ID) {
			out = append(out, k.String()+" goes")
		}
	}
	for _, k := range now.keys {
		if !has(was, k.ID) {
			out = append(out, k.String()+" comes")
		}
	}
	if now.threshold != was.threshold {
		out = append(out, fmt.Sprintf("%d must sign, it was %d", now.threshold, was.threshold))
	}
	if team, ok := strings.CutPrefix(now.what, teamStand); ok && now.lapses(was) {
		out = append(out, Renewal(fleet.Team(team)))
	}
	return out
}

// lapses reports whether what was signed before may not be signed well enough now.
func (s stand) lapses(was stand) bool {
	return s.threshold > was.threshold || slices.ContainsFunc(was.keys, func(k Key) bool {
		return !slices.ContainsFunc(s.keys, func(n Key) bool { return n.ID == k.ID })
	})
}

// Renewal is what to do after a team's keys or threshold changed.
func Renewal(t fleet.Team) string {
	return fmt.Sprintf("what team %s published must be signed anew, or it is not listed: `modelfleet releases renew --team %s`", t, t)
}

// Renewals are the teams whose releases may not be listed after the change until
// the teams sign anew.
func (c *Ceremony) Renewals() []fleet.Team {
	if c.next.policy == nil || c.before.policy == nil {
		return nil
	}
	var out []fleet.Team
	was := policyStands(c.before.policy)
	for _, n := range policyStands(c.next.policy) {
		team, ok := strings.CutPrefix(n.what, teamStand)
		i := slices.IndexFunc(was, func(w stand) bool { return w.what == n.what })
		if ok && i >= 0 && n.lapses(was[i]) {
			out = append(out, fleet.Team(team))
		}
	}
	return out
}

// files describes what the policy lists.
func (c *Ceremony) files() []Says {
	var out []Says
	now, was := c.next.policy.Signed.Targets, metadata.TargetsType{}.Targets
	if c.before.policy != nil {
		was = c.before.policy.Signed.Targets
	}
	for _, path := range slices.Sorted(maps.Keys(now)) {
		s := Says{What: "file " + path, Now: fmt.Sprintf("%d bytes, %x", now[path].Length, []byte(now[path].Hashes["sha256"])[:6])}
		if body, ok := c.Targets[path]; ok {
			s.Now = content(path, body)
		}
		switch old := was[path]; {
		case c.Begins():
		case old == nil:
			s.Change = []string{"new"}
		case !old.Hashes.Equal(now[path].Hashes):
			s.Change = []string{"changed"}
		}
		out = append(out, s)
	}
	for _, path := range slices.Sorted(maps.Keys(was)) {
		if now[path] == nil {
			out = append(out, Says{What: "file " + path, Now: "not listed any more", Change: []string{"gone"}})
		}
	}
	return out
}

// content is a file in a few words.
func content(path string, body []byte) string {
	sum := fleet.DigestOf(body)
	switch path {
	case trust.PathDeviceCA:
		var prints []string // as the coordinator and its log call them
		for rest := body; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			prints = append(prints, fleet.DigestOf(block.Bytes).Short())
		}
		if len(prints) == 1 {
			return "1 certificate: " + prints[0]
		}
		return fmt.Sprintf("%d certificates: %s", len(prints), strings.Join(prints, ", "))
	case trust.PathRevoked, trust.PathKeyless, trust.PathAuditKey:
		if text := bytes.TrimSpace(body); len(text) <= 600 {
			return string(text)
		}
	}
	return fmt.Sprintf("%d bytes, %x", len(body), sum[:6])
}
