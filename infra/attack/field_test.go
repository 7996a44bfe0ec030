package attack_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// patience is how long anything is waited for.
const patience = proctest.Patience

// policy exposes everybody at once: what a rollout does is not what is tested.
const policy = `stages: [{name: all, percent: 100, soak: 200ms}]
burnIn: 100ms
memberSoak: 200ms
stageDeadline: 60s
onInconclusive: continue
`

// until waits until a condition holds; it also says how things stand.
func until(t *testing.T, what string, holds func() (bool, string)) {
	t.Helper()
	sure(t, proctest.Until(t.Context(), patience, what, func() (bool, error) {
		ok, now := holds()
		return ok, errors.New(now)
	}))
}

// ends ends a program in an attack, by asking or by a power cut.
func ends(t *testing.T, p *proctest.Program, sig syscall.Signal) {
	t.Helper()
	sure(t, p.End(sig, patience))
}

// field is a fleet under attack: a coordinator and agents, each a process, over a
// bucket on the S3 server. The attacker may do anything but touch the code.
type field struct {
	t      *testing.T
	dir    string
	env    []string
	url    string
	listen string
	coord  *proctest.Program
	all    proctest.Group
	bucket *bucket
	client *api.Client // an admin's
	forges int         // packs that a thief signed
}

// fieldOptions say what is not as usual.
type fieldOptions struct {
	life  time.Duration // of timestamps; 0: a day
	teams []string      // default vision
	cell  bool          // the coordinator takes part in the gossip of site hall
	url   string        // that members are told; default where it listens
	flags []string      // of the coordinator, besides
}

// newField starts a fleet without members.
func newField(t *testing.T, o fieldOptions) *field {
	t.Helper()
	server, err := startS3()
	if err != nil {
		t.Fatal(err)
	}
	f := &field{t: t, dir: t.TempDir(), listen: freeAddr(t)}
	t.Cleanup(f.stop)
	f.url = "https://" + f.listen
	prefix := fmt.Sprintf("f%d", shared().fleets.Add(1))
	f.bucket = openBucket(t, server, prefix)
	f.env = append(os.Environ(), "HOME="+f.dir, "MODELFLEET_DIR=fleet", "MODELFLEET_CONTEXT="+filepath.Join(f.dir, "data", "admin.context.json"),
		"AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey, "AWS_REGION="+server.Region)
	if o.life > 0 {
		f.env = append(f.env, timestampLife+"="+o.life.String())
	}
	args := []string{"init", "--dir", "fleet", "--name", "orchard", "--bucket", server.Bucket, "--prefix", prefix, "--s3-endpoint", server.Endpoint, "--region", server.Region}
	if o.teams == nil {
		o.teams = []string{"vision"}
	}
	for _, team := range o.teams {
		args = append(args, "--team", team)
	}
	f.run(args...)
	args = []string{"modelfleet-coordinator", "-fleet", "fleet", "-data", "data", "-listen", f.listen, "-tick", "100ms", "-report", "500ms"}
	if o.url != "" {
		args = append(args, "-url", o.url)
	}
	if o.cell {
		args = append(args, "-join-cell", "hall", "-gossip-bind", freeAddr(t))
	}
	f.coord = f.launch("coordinator", append(args, o.flags...)...)
	f.answers()
	return f
}

// answers waits until the coordinator does.
func (f *field) answers() {
	f.t.Helper()
	until(f.t, "the coordinator answers", func() (bool, string) {
		if !f.coord.Running() {
			f.t.Fatalf("the coordinator ended: %s", f.coord.Said())
		}
		c, err := api.LoadContext(filepath.Join(f.dir, "data", "admin.context.json"))
		if err == nil {
			f.client, err = c.Client()
		}
		if err == nil {
			_, err = f.client.Fleet(f.t.Context())
		}
		return err == nil, fmt.Sprint(err)
	})
}

func (f *field) stop() {
	if f.t.Failed() {
		f.t.Log(f.all.Logs(30))
	}
	f.all.End(syscall.SIGKILL, patience)
}

// launch starts a program in the fleet's folder.
func (f *field) launch(name string, args ...string) *proctest.Program {
	f.t.Helper()
	p := &proctest.Program{Name: name, Args: args, Env: f.env, Dir: f.dir, Log: filepath.Join(f.dir, name+".log")}
	sure(f.t, f.all.Start(p))
	return p
}

// restart starts a program again that ended.
func (f *field) restart(p *proctest.Program) {
	f.t.Helper()
	sure(f.t, p.Start())
}

// failure is how a command failed.
type failure struct {
	code int
	said string
}

// try runs a command of the operator's to its end.
func (f *field) try(args ...string) (string, *failure) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	out, said, err := proctest.Run(ctx, f.dir, f.env, append([]string{"modelfleet"}, args...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", &failure{exit.ExitCode(), said}
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), nil
}

// run is try, and must work.
func (f *field) run(args ...string) string {
	f.t.Helper()
	out, bad := f.try(args...)
	if bad != nil {
		f.t.Fatalf("modelfleet %s: exit code %d: %s", strings.Join(args, " "), bad.code, bad.said)
	}
	return out
}

// fails runs a command that must fail with the exit code of a kind, and say all
// of these, and a next move.
func (f *field) fails(kind fault.Kind, says []string, args ...string) {
	f.t.Helper()
	out, bad := f.try(args...)
	if bad == nil {
		f.t.Errorf("modelfleet %s worked: %s", strings.Join(args, " "), out)
		return
	}
	if bad.code != kind.Exit() {
		f.t.Errorf("modelfleet %s: exit code %d, want %d: %s", strings.Join(args, " "), bad.code, kind.Exit(), bad.said)
	}
	for _, text := range append(says, "hint:") {
		if !strings.Contains(bad.said, text) {
			f.t.Errorf("modelfleet %s does not say %q but: %s", strings.Join(args, " "), text, bad.said)
		}
	}
}

// publish publishes a version of a model, of files with this content.
func (f *field) publish(team, ref, content string, more ...string) {
	f.t.Helper()
	folder := filepath.Join(f.dir, "model-"+strings.ReplaceAll(ref, "@", "-"))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "weights.bin"), []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
	f.run(append([]string{"publish", folder, ref, "--team", team, "--dir", "fleet"}, more...)...)
}

// start starts a rollout and returns its id.
func (f *field) start(ref string) fleet.RolloutID {
	f.t.Helper()
	path := filepath.Join(f.dir, "policy.yaml")
	if err := os.WriteFile(path, []byte(policy), 0o644); err != nil {
		f.t.Fatal(err)
	}
	return fleet.RolloutID(f.run("rollout", "start", ref, "-f", path))
}

// settled waits until a rollout is through.
func (f *field) settled(id fleet.RolloutID) {
	f.t.Helper()
	until(f.t, "the rollout has succeeded", func() (bool, string) {
		r, err := f.client.Rollout(f.t.Context(), id)
		if err != nil {
			return false, err.Error()
		}
		return r.State == "Succeeded", r.State + ": " + r.Reason
	})
}

// runs has everybody run a version, published now.
func (f *field) runs(ref, content string, devices ...*device) {
	f.t.Helper()
	f.publish("vision", ref, content)
	f.settled(f.start(ref))
	for _, d := range devices {
		d.settles(ref)
	}
}

// member is a member as the coordinator tells of it.
func (f *field) member(id fleet.MemberID) api.MemberInfo {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	m, err := f.client.Member(ctx, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// sees waits until what the coordinator tells of a member is so.
func (f *field) sees(id fleet.MemberID, what string, holds func(api.MemberInfo) bool) {
	f.t.Helper()
	until(f.t, string(id)+" is seen "+what, func() (bool, string) {
		m, err := f.client.Member(f.t.Context(), id)
		if err != nil {
			return false, err.Error()
		}
		return holds(m), fmt.Sprintf("%+v", m)
	})
}

// keeps has the coordinator find another key under a name.
func (f *field) keeps(name string) *signer.Signer {
	f.t.Helper()
	path := filepath.Join(f.dir, "fleet", "keys", name+".pem")
	sure(f.t, os.Rename(path, path+".stolen"))
	s, err := signer.Generate(path)
	sure(f.t, err)
	return s
}
