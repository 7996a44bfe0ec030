package attack_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// The only release that a device ever had is taken back: there is nothing to go back
// to. It stops serving the model, or goes on where the fleet says so; it tells both,
// also after a start; and it runs the next good release.
func TestTheOnlyReleaseIsTakenBack(t *testing.T) {
	t.Parallel()
	const kept fleet.ModelName = "tracker"
	f := newField(t, fieldOptions{flags: []string{"-keep-revoked", string(kept)}})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	f.runs("tracker@1.0.0", "a", d)
	for _, ref := range []string{"detector@1.0.0", "tracker@1.0.0"} {
		f.run("releases", "delist", ref, "--reason", "poisoned", "--dir", "fleet")
	}
	stands := func(l local.Listing) bool {
		stopped, goes := of(l, model), of(l, kept)
		return stopped.Serving == nil && stopped.Revoked != "" && serving(l, kept) == "tracker@1.0.0" && goes.Revoked != ""
	}
	d.until("it serves nothing of the one, and goes on with the other", stands)
	if _, err := os.Stat(filepath.Join(d.state, "models", string(model), "current")); !os.IsNotExist(err) {
		t.Errorf("applications that read the folder still find the release: %v", err)
	}
	f.sees("cam-1", "without the one", func(m api.MemberInfo) bool {
		return standing(m, model).Running == "" && standing(m, kept).Running == "tracker@1.0.0" && standing(m, kept).Revoked != ""
	})
	if list := f.run("members", "list", "--revoked"); !strings.Contains(list, "tracker") {
		t.Errorf("nobody sees who goes on with what was taken back: %s", list)
	}
	f.logs("stable release is delisted", "detector@1.0.0")
	ends(t, d.Program, syscall.SIGTERM)
	f.restart(d.Program)
	d.until("it stands the same after a start", stands)
	out, err := exec.Command("modelfleet-agent", "status", "-socket", d.socket).CombinedOutput()
	sure(t, err)
	if !strings.Contains(string(out), "detector@1.0.0 was revoked") || !strings.Contains(string(out), "tracker@1.0.0 was revoked") {
		t.Errorf("its status does not say so: %s", out)
	}
	f.runs("detector@2.0.0", "two", d)
	f.runs("tracker@2.0.0", "b", d)
	d.stillServes("detector@2.0.0", "two")
	d.stillServes("tracker@2.0.0", "b")
	d.until("nothing is revoked any more", func(l local.Listing) bool { return of(l, model).Revoked == "" && of(l, kept).Revoked == "" })
}
