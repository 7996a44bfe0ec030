package attack_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// roleOf puts the next version of a team's role into the bucket, edited and signed
// by whoever holds the key.
func (f *field) roleOf(team string, from []byte, edit func(*metadata.TargetsType)) {
	f.t.Helper()
	role := "pub-" + team
	m := load[metadata.TargetsType](f.t, from)
	m.Signed.Version = load[metadata.TargetsType](f.t, f.newest(role)).Signed.Version + 1
	edit(&m.Signed)
	m.Signatures = nil
	_, err := m.Sign(f.key("publisher-" + team))
	sure(f.t, err)
	raw, err := m.ToBytes(false)
	sure(f.t, err)
	f.bucket.put(f.t, trust.MetadataKey(role, m.Signed.Version), raw)
}

// A team's key in a thief's hands, with the bucket's credentials: what it publishes
// is listed, and runs nowhere, because no directive names it; for another team it
// says nothing at all. Another key ends it.
func TestPublisherKeyStolen(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{teams: []string{"vision", "audio"}})
	d := f.agent("cam-1")
	f.publish("audio", "scorer@1.0.0", "ding")
	f.runs("detector@1.0.0", "one", d)
	f.publish("vision", "detector@6.6.6", "evil")
	until(t, "members know of the thief's release", func() (bool, string) {
		raw, ok := f.unpacked().Publishers[teamRole]
		return ok && strings.Contains(string(raw), "6.6.6"), ""
	})
	d.stillServes("detector@1.0.0", "one")
	if l, err := d.list(); err != nil || strings.Contains(fmt.Sprintf("%+v", l), "6.6.6") {
		t.Errorf("the device knows what no directive names: %+v, %v", l, err)
	}
	good := f.newest(teamRole)
	// Another team's model, and the same version again with other bytes.
	for _, c := range []struct {
		rule trust.Rule
		edit func(*metadata.TargetsType)
	}{
		{trust.RulePath, func(m *metadata.TargetsType) {
			m.Targets["models/audio/scorer/6.6.6/default.oms"] = m.Targets["models/vision/detector/1.0.0/default.oms"]
		}},
		{trust.RuleImmutable, func(m *metadata.TargetsType) {
			m.Targets["models/vision/detector/1.0.0/default.oms"] = m.Targets["models/vision/detector/6.6.6/default.oms"]
		}},
		{trust.RuleFormat, func(m *metadata.TargetsType) {
			m.Targets["models/vision/detector/6.6.6/default.oms"].Custom = new(json.RawMessage(`{"size":"1e9"}`))
		}},
	} {
		f.roleOf("vision", good, c.edit)
		f.fails(fault.Untrusted, []string{"rule " + string(c.rule), "vision"}, "releases", "admit", "vision")
	}
	d.stillServes("detector@1.0.0", "one")

	f.run("key", "create", "vision-2.pem")
	f.run("key", "rotate", "pub-vision", "--to", "vision-2.pub", "--dir", "fleet", "--yes")
	f.fails(fault.Untrusted, []string{"rule publisher"}, "publish", "model-detector-1.0.0", "detector@6.7.0", "--team", "vision", "--dir", "fleet", "--key", "fleet/keys/publisher-vision.pem")
	f.publish("vision", "detector@2.0.0", "two", "--key", "vision-2.pem")
	f.run("releases", "delist", "detector@6.6.6", "--reason", "stolen key", "--dir", "fleet", "--key", "vision-2.pem")
	f.settled(f.start("detector@2.0.0"))
	d.settles("detector@2.0.0")
	// Not even an operator's mistake brings the thief's release in.
	if id, bad := f.try("rollout", "start", "detector@6.6.6", "--preset", "AllAtOnce"); bad == nil {
		until(t, "its rollout ends", func() (bool, string) {
			r, err := f.client.Rollout(t.Context(), fleet.RolloutID(id))
			if err != nil {
				return false, err.Error()
			}
			return r.State != "Running" && r.State != "Draft" && r.State != "Succeeded", r.State + ": " + r.Reason
		})
	}
	d.stillServes("detector@2.0.0", "two")
}

// Of a team whose role needs two signatures, one key was stolen: what it signs is a
// proposal, and nothing else.
func TestPublisherKeyStolenOfTwo(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	f.run("key", "create", "ben.pem")
	f.run("key", "add", "pub-vision", "ben.pub", "--threshold", "2", "--dir", "fleet", "--yes")
	f.publish("vision", "detector@6.6.6", "evil")
	if list := f.run("releases", "list"); strings.Contains(list, "6.6.6") {
		t.Errorf("one of two keys published: %s", list)
	}
	if list := f.run("releases", "proposals", "--dir", "fleet"); !strings.Contains(list, "6.6.6") {
		t.Errorf("nobody sees the proposal: %s", list)
	}
	f.fails(fault.NotFound, nil, "rollout", "start", "detector@6.6.6", "--preset", "standard")
	d.stillServes("detector@1.0.0", "one")
}

// A publisher takes a release back: no member keeps it, not even one that a stolen
// coordinator tells to.
func TestReleaseTakenBack(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	f.runs("detector@2.0.0", "two", d)
	f.run("releases", "delist", "detector@2.0.0", "--reason", "poisoned", "--dir", "fleet")
	d.until("it has left the release", func(l local.Listing) bool { return serving(l, model) == "detector@1.0.0" })
	f.sees("cam-1", "on what is left", func(m api.MemberInfo) bool { return standing(m, model).Running == "detector@1.0.0" })
	d.stillServes("detector@1.0.0", "one")
}
