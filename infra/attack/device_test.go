package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// model is the one that most tests move.
const model fleet.ModelName = "detector"

// device is a member of a field: an agent as a process, and what it says on its
// socket.
type device struct {
	*proctest.Program
	f        *field
	id       fleet.MemberID
	state    string
	socket   string
	packFile string // where it also looks for packs, as on a stick
	gossip   string // host:port, when it is in a cell
	mark     int    // where its log ended when a pack was offered last
}

// agent enrols a device by a token of its own and waits until it serves.
func (f *field) agent(id fleet.MemberID, more ...string) *device {
	f.t.Helper()
	d := f.enrols(id, f.token(), more...)
	d.up()
	return d
}

// token makes a join token.
func (f *field) token(more ...string) string {
	f.t.Helper()
	return f.run(append([]string{"token", "create"}, more...)...)
}

// enrols starts a device with this token.
func (f *field) enrols(id fleet.MemberID, token string, more ...string) *device {
	f.t.Helper()
	sockets, err := os.MkdirTemp("", "mfa") // a socket's path must be short
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { os.RemoveAll(sockets) })
	d := &device{f: f, id: id, state: filepath.Join(f.dir, string(id)), socket: filepath.Join(sockets, "s"), packFile: filepath.Join(f.dir, string(id)+".pack.zst")}
	args := []string{"modelfleet-agent", "-state", d.state, "-join", token, "-id", string(id), "-socket", d.socket, "-pack", d.packFile,
		"-report", "300ms", "-window", "300ms", "-soak", "200ms", "-retry", "500ms"}
	d.Program = f.launch(string(id), append(args, more...)...)
	return d
}

// inCell is the flags of a device in the gossip of a site.
func (f *field) inCell(site string) (gossip string, flags []string) {
	gossip = freeAddr(f.t)
	return gossip, []string{"-labels", "site=" + site, "-gossip-bind", gossip}
}

// up waits until the agent answers.
func (d *device) up() {
	d.f.t.Helper()
	d.until("it serves", func(local.Listing) bool { return true })
}

// list is how things stand on the device.
func (d *device) list() (local.Listing, error) {
	return local.NewClient(local.ClientOptions{Socket: d.socket, App: "attack"}).List(d.f.t.Context())
}

// until waits until how things stand is so.
func (d *device) until(what string, holds func(local.Listing) bool) {
	d.f.t.Helper()
	until(d.f.t, string(d.id)+": "+what, func() (bool, string) {
		l, err := d.list()
		if err != nil {
			return false, err.Error()
		}
		return holds(l), fmt.Sprintf("%+v", l)
	})
}

// of is how a model stands.
func of(l local.Listing, m fleet.ModelName) local.Model {
	for _, x := range l.Models {
		if x.Name == m {
			return x
		}
	}
	return local.Model{}
}

func serving(l local.Listing, m fleet.ModelName) string {
	if r := of(l, m).Serving; r != nil {
		return r.Ref
	}
	return ""
}

// serves waits until applications are given a release, of verified files.
func (d *device) serves(ref string) {
	d.f.t.Helper()
	m, _, err := fleet.ParseRef(ref)
	if err != nil {
		d.f.t.Fatal(err)
	}
	d.until("it serves "+ref, func(l local.Listing) bool { return serving(l, m) == ref })
}

// settles waits until a release is what the device serves and what it should, the
// rollout of it being over.
func (d *device) settles(ref string) {
	d.f.t.Helper()
	d.serves(ref)
	m, _, _ := fleet.ParseRef(ref) // serves has parsed it
	d.until("its stable release is "+ref, func(l local.Listing) bool { return strings.HasPrefix(of(l, m).Reason, "stable is "+ref) })
}

// stillServes checks that applications are given a release now, its files and all.
func (d *device) stillServes(ref, content string) {
	d.f.t.Helper()
	m, _, err := fleet.ParseRef(ref)
	if err != nil {
		d.f.t.Fatal(err)
	}
	l, err := d.list()
	if err != nil || serving(l, m) != ref {
		d.f.t.Errorf("%s serves %q, want %s: %v; %+v", d.id, serving(l, m), ref, err, l)
		return
	}
	b, err := os.ReadFile(filepath.Join(of(l, m).Serving.Path, "weights.bin"))
	if err != nil || string(b) != content {
		d.f.t.Errorf("%s serves %.40q as %s: %v", d.id, b, ref, err)
	}
}

// offers puts a pack where the device looks for packs, as a stick does.
func (d *device) offers(pack []byte) {
	d.f.t.Helper()
	d.mark = len(d.Said())
	if err := os.WriteFile(d.packFile+".tmp", pack, 0o644); err != nil {
		d.f.t.Fatal(err)
	}
	if err := os.Rename(d.packFile+".tmp", d.packFile); err != nil {
		d.f.t.Fatal(err)
	}
}

// refuses waits until the device says in its log that it refused a pack that came
// this way ("file", "cell", "coordinator", "bucket") by a rule. How it stands tells
// it too, until another source has a good pack, which may be at once.
func (d *device) refuses(way string, rule trust.Rule) {
	d.f.t.Helper()
	until(d.f.t, fmt.Sprintf("%s refuses a pack by %s, by rule %s", d.id, way, rule), func() (bool, string) {
		said := d.Said()[d.mark:]
		return proctest.HasLine(said, "trust pack refused", "from="+way, "rule="+string(rule)+" "), said[max(0, len(said)-500):]
	})
}

func (d *device) logs(texts ...string) {
	d.f.t.Helper()
	until(d.f.t, fmt.Sprintf("%s logs %q", d.id, texts), func() (bool, string) { return d.Logged(texts...), "" })
}

func (f *field) logs(texts ...string) {
	f.t.Helper()
	until(f.t, fmt.Sprintf("the coordinator logs %q", texts), func() (bool, string) { return f.coord.Logged(texts...), "" })
}

// takes offers a pack that must be believed: its directive's sequence is then the
// device's.
func (d *device) takes(pack []byte) {
	d.f.t.Helper()
	p, err := trust.DecodePack(pack)
	if err != nil {
		d.f.t.Fatal(err)
	}
	dir, err := trust.ParseDirective(p.Directive)
	if err != nil {
		d.f.t.Fatal(err)
	}
	d.offers(pack)
	// What the device logs stays; how it stands may change at once by a pack from
	// elsewhere. A pack that it knows already is not logged.
	d.until(fmt.Sprintf("directive %d is believed", dir.Sequence), func(l local.Listing) bool {
		return d.believed(fmt.Sprintf("sequence=%d ", dir.Sequence)) || l.Directive >= dir.Sequence && l.Refused == ""
	})
}

// believed reports whether the device logged that it believes the pack that was
// offered last.
func (d *device) believed(more ...string) bool {
	return proctest.HasLine(d.Said()[d.mark:], append(more, "directive believed", "from=file")...)
}

// pack is the newest pack in the bucket.
func (f *field) pack() []byte {
	f.t.Helper()
	return f.bucket.get(f.t, fleet.DefaultGroup.PackKey())
}

// sure fails the test on an error.
func sure(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func memberID(name string) fleet.MemberID { return fleet.MemberID(name) }

func keyIDOf(t testing.TB, s *signer.Signer) telemetry.KeyID {
	t.Helper()
	id, err := telemetry.KeyIDOf(s.ECDSA())
	sure(t, err)
	return id
}
