package play

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// one exposes a single member: enough for what goes wrong in the bucket.
const one = `population: {selector: "id=%s"}
stages:
  - {name: one, percent: 100, soak: 1s}
burnIn: 500ms
memberSoak: 1s
stageDeadline: 60s
onInconclusive: continue
`

// bucket opens the store as whoever holds its credentials could.
func (w *world) bucket(ctx context.Context) (*s3.Store, error) {
	o := s3.Options{Bucket: w.store.bucket, Endpoint: w.store.endpoint, Region: w.store.region}
	if w.s3 != nil {
		o.AccessKey, o.SecretKey = w.s3.AccessKey, w.s3.SecretKey
	}
	return s3.Open(ctx, o)
}

// grow makes a release folder out of v2 with a large file more, so that an
// install takes a while. The bytes are random: nothing about them compresses.
func (w *world) grow(version string, seed uint64, size int64) (string, error) {
	dir := filepath.Join(w.dir, "releases", version)
	if err := os.CopyFS(dir, os.DirFS(w.releases["v2"].Dir)); err != nil {
		return "", fmt.Errorf("copy v2: %w", err)
	}
	var key [32]byte
	key[0] = byte(seed)
	f, err := os.Create(filepath.Join(dir, "archive.bin"))
	if err != nil {
		return "", fmt.Errorf("make %s: %w", version, err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8(key), size)
	return dir, errors.Join(err, f.Close())
}

// actTamper changes bytes of a published release in the bucket, and puts them
// right again.
func (w *world) actTamper(ctx context.Context) (string, error) {
	dir, err := w.grow("v4", 4, 8<<20)
	if err != nil {
		return "", err
	}
	bucket, err := w.bucket(ctx)
	if err != nil {
		return "", err
	}
	before, err := objects(ctx, bucket, "files/")
	if err != nil {
		return "", err
	}
	if err := w.publish(ctx, dir, "4.0.0"); err != nil {
		return "", err
	}
	after, err := objects(ctx, bucket, "files/")
	if err != nil {
		return "", err
	}
	victim := registry.Object{}
	for key, o := range after {
		if _, old := before[key]; !old && o.Size > victim.Size {
			victim = o
		}
	}
	good, err := content(ctx, bucket, victim.Key)
	if err != nil {
		return "", err
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := overwrite(ctx, bucket, victim.Key, bad); err != nil {
		return "", err
	}
	w.n.say("one bit of %s is flipped in the bucket", short(victim.Key))

	d := w.odd()
	policy, err := w.policy("one", fmt.Sprintf(one, d.id))
	if err != nil {
		return "", err
	}
	r, err := w.start(ctx, "4.0.0", policy)
	if err != nil {
		return "", err
	}
	refusal, err := w.refusal(ctx, d.id)
	if err != nil {
		return "", err
	}
	refusal = short(refusal)
	w.n.say("%s refuses: %s", d.id, refusal)
	if err := w.serves(ctx, d, ref("2.0.0")); err != nil {
		return "", err
	}
	if err := overwrite(ctx, bucket, victim.Key, good); err != nil {
		return "", err
	}
	w.n.say("the bytes are put right; the device goes on by itself")
	if _, err := w.follow(ctx, r.ID, proctest.Patience, "Succeeded"); err != nil {
		return "", err
	}
	return "refused: " + refusal, nil
}

// refusal waits until the member says that it could not install, and returns why.
func (w *world) refusal(ctx context.Context, id fleet.MemberID) (string, error) {
	why := ""
	err := proctest.Until(ctx, proctest.Patience, string(id)+" refuses the release", func() (bool, error) {
		d := w.device(id)
		m, err := d.local(ctx)
		why = m.FailureText
		return err == nil && strings.Contains(why, "archive.bin"), err
	})
	return why, err
}

func (w *world) device(id fleet.MemberID) *device {
	for _, d := range w.agents {
		if d.id == id {
			return d
		}
	}
	return nil
}

// objects lists what lies below a prefix of the bucket.
func objects(ctx context.Context, bucket *s3.Store, prefix string) (map[string]registry.Object, error) {
	found := map[string]registry.Object{}
	for o, err := range bucket.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		found[o.Key] = o
	}
	return found, nil
}

func content(ctx context.Context, bucket *s3.Store, key string) ([]byte, error) {
	body, _, err := bucket.Get(ctx, key, "")
	return body, err
}

// overwrite replaces an object, as whoever has got hold of the bucket can.
func overwrite(ctx context.Context, bucket *s3.Store, key string, body []byte) error {
	_, etag, err := bucket.Get(ctx, key, "")
	if err != nil {
		return err
	}
	_, err = bucket.Swap(ctx, key, body, etag)
	return err
}

var longDigest = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// short is text with its digests shortened.
func short(s string) string {
	return longDigest.ReplaceAllStringFunc(s, func(d string) string { return d[:12] + "…" })
}

// actReplay hands a device a pack that was genuine once.
func (w *world) actReplay(ctx context.Context) (string, error) {
	d := w.agents[0]
	w.n.say("the genuine pack of the time when v1 was stable is brought to %s on a USB stick", d.id)
	why, put := "", time.Time{}
	err := proctest.Until(ctx, proctest.Patience, string(d.id)+" refuses the pack", func() (bool, error) {
		// A refusal is told until news come by another way, which may be at once: the
		// stick is put in again until it is seen.
		if time.Since(put) > 3*time.Second {
			if err := d.plug(w.oldPack); err != nil {
				return false, err
			}
			put = time.Now()
		}
		l, err := local.NewClient(local.ClientOptions{Socket: d.socket, App: "demo"}).List(ctx)
		why = l.Refused
		return err == nil && why != "", err
	})
	if err != nil {
		return "", err
	}
	if err := w.serves(ctx, d, ref("2.0.0")); err != nil {
		return "", err
	}
	if err := os.Remove(d.packFile()); err != nil {
		return "", fmt.Errorf("take the stick out: %w", err)
	}
	return "refused: " + why, nil
}

// plug puts a pack where the device looks for packs, whole at once.
func (d *device) plug(pack []byte) error {
	part := d.packFile() + ".part"
	err := os.WriteFile(part, pack, 0o644)
	if err == nil {
		err = os.Rename(part, d.packFile())
	}
	if err != nil {
		return fault.New(fault.Internal, "write pack", d.packFile(), err)
	}
	return nil
}

// actStranger publishes with a key that the root does not know: first with our
// own command, then, since a stranger would not be stopped by that, by forging
// the next version of the team's role right in the bucket.
func (w *world) actStranger(ctx context.Context) (string, error) {
	dir := filepath.Join(w.dir, "stranger")
	if err := os.CopyFS(dir, os.DirFS(w.fleetDir())); err != nil {
		return "", fmt.Errorf("copy the fleet's folder: %w", err)
	}
	path := filepath.Join(dir, "keys", "publisher-"+team+".pem")
	if err := os.Remove(path); err != nil {
		return "", fmt.Errorf("drop the publisher's key: %w", err)
	}
	key, err := signer.Generate(path)
	if err != nil {
		return "", err
	}
	_, err = w.cli(ctx, "publish", w.releases["v1"].Dir, ref("6.6.6"), "--dir", dir)
	if err := w.refused(err); err != nil {
		return "", err
	}
	if err := w.forge(ctx, key); err != nil {
		return "", err
	}
	w.n.say("the stranger puts a role of their own making into the bucket, and asks for admission")
	_, err = w.cli(ctx, "releases", "admit", team)
	if err := w.refused(err); err != nil {
		return "", err
	}
	failed, _ := errors.AsType[*proctest.Failure](err) // refused has seen that it is one
	why, _, _ := strings.Cut(failed.Said, "\n")
	releases, err := w.client.Releases(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range releases {
		if r.Release.Version == "6.6.6" {
			return "", errors.New("the fleet may run what a stranger published")
		}
	}
	return "refused: " + strings.TrimPrefix(why, "modelfleet: "), nil
}

// refused tells why a command was refused; a command that was not, or for
// another reason than distrust, is an error.
func (w *world) refused(err error) error {
	failed, ok := errors.AsType[*proctest.Failure](err)
	if !ok {
		return fmt.Errorf("what a stranger signed was taken: %v", err)
	}
	w.echo(failed.Said)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != fault.Untrusted.Exit() {
		return fmt.Errorf("it was refused for another reason: %w", err)
	}
	return nil
}

// forge signs the next version of the team's role with a key nobody trusts.
func (w *world) forge(ctx context.Context, key signature.Signer) error {
	bucket, err := w.bucket(ctx)
	if err != nil {
		return err
	}
	role := trust.RoleOf(team)
	version := int64(0)
	var newest []byte
	for {
		raw, _, err := bucket.Get(ctx, trust.MetadataKey(role, version+1), "")
		if fault.Is(err, fault.NotFound) {
			break
		} else if err != nil {
			return err
		}
		newest, version = raw, version+1
	}
	forged, err := metadata.Targets().FromBytes(newest)
	if err != nil {
		return fmt.Errorf("read %s: %w", role, err)
	}
	forged.ClearSignatures()
	forged.Signed.Version = version + 1
	if _, err := forged.Sign(key); err != nil {
		return fmt.Errorf("forge %s: %w", role, err)
	}
	body, err := forged.ToBytes(false)
	if err != nil {
		return fmt.Errorf("forge %s: %w", role, err)
	}
	_, err = bucket.Swap(ctx, trust.MetadataKey(role, version+1), body, "")
	return err
}

// actOutage kills the coordinator and lets it return.
func (w *world) actOutage(ctx context.Context) (string, error) {
	before, err := w.scored(ctx)
	if err != nil {
		return "", err
	}
	if err := w.coord.End(syscall.SIGKILL, proctest.Patience); err != nil {
		return "", err
	}
	w.n.say("the coordinator is gone (kill -9)")
	down := time.Now()
	served := uint64(0)
	err = proctest.Until(ctx, proctest.Patience, "devices keep scoring without the coordinator", func() (bool, error) {
		now, err := w.scored(ctx)
		served = now - before
		return time.Since(down) > 3*time.Second && served > uint64(20*len(w.agents)), err
	})
	if err != nil {
		return "", err
	}
	w.n.say("%d readings scored by %d devices meanwhile; none changed what it runs", served, len(w.agents))
	for _, d := range w.agents {
		want := ref("2.0.0")
		if d == w.odd() {
			want = ref("4.0.0")
		}
		if err := w.serves(ctx, d, want); err != nil {
			return "", err
		}
	}
	if err := w.startCoordinator(ctx); err != nil {
		return "", err
	}
	back := time.Now()
	w.n.say("the coordinator is back, with the state it had")
	err = proctest.Until(ctx, proctest.Patience, "every device reports again", func() (bool, error) {
		members, err := w.members(ctx)
		if err != nil {
			return false, err
		}
		n := 0
		for _, m := range members {
			if m.Facts.Kind == fleet.Device && m.Seen.After(back) {
				n++
			}
		}
		w.n.progress("devices report again", n, len(w.agents))
		return n == len(w.agents), nil
	})
	if err != nil {
		return "", err
	}
	if _, err := w.cli(ctx, "audit", "verify"); err != nil {
		return "", err
	}
	w.n.figure("coordinator back to every device reporting", time.Since(back).Seconds(), "s")
	return fmt.Sprintf("%d readings scored while it was away; every device reported again %.1fs after its return; the audit log is whole", served, time.Since(back).Seconds()), nil
}

// scored is how many readings the devices' applications have scored, asked of
// the agents themselves.
func (w *world) scored(ctx context.Context) (uint64, error) {
	total := uint64(0)
	for _, d := range w.agents {
		m, err := d.local(ctx)
		if err != nil {
			return 0, err
		}
		total += m.Requests
	}
	return total, nil
}

// slow is the device that is killed in the middle of an install: until then it
// fetches slowly enough for there to be a middle, however busy the machine is,
// and by itself: its cap is for the bucket, and neighbours would send it all at once.
func (w *world) slow() *device { return w.agents[1] }

// actKill kills an agent in the middle of a download.
func (w *world) actKill(ctx context.Context) (string, error) {
	const size = 48 << 20
	dir, err := w.grow("v5", 5, size)
	if err != nil {
		return "", err
	}
	if err := w.publish(ctx, dir, "5.0.0"); err != nil {
		return "", err
	}
	d := w.slow()
	policy, err := w.policy("one", fmt.Sprintf(one, d.id))
	if err != nil {
		return "", err
	}
	r, err := w.start(ctx, "5.0.0", policy)
	if err != nil {
		return "", err
	}
	var done int64
	err = proctest.Until(ctx, proctest.Patience, string(d.id)+" is in the middle of the install", func() (bool, error) {
		s, err := d.local(ctx)
		done = s.BytesDone
		return err == nil && s.Phase == fleet.Downloading && s.BytesDone > 8<<20, err
	})
	if err != nil {
		return "", err
	}
	if err := d.agent.End(syscall.SIGKILL, proctest.Patience); err != nil {
		return "", err
	}
	w.n.say("%s is killed (kill -9) with %d MiB of %d MiB fetched", d.id, done>>20, size>>20)
	folder, err := d.current()
	if err != nil {
		return "", fmt.Errorf("the old model is gone: %w", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "model.safetensors")); err != nil {
		return "", fmt.Errorf("the old model is gone: %w", err)
	}
	if !d.app.Running() {
		return "", errors.New("the application ended with the agent")
	}
	w.n.say("its application keeps scoring with %s, whose files are whole", filepath.Base(folder)[:12]+"…")
	d.agent.Args = d.agent.Args[:len(d.agent.Args)-len(d.flags)]
	if err := d.agent.Start(); err != nil {
		return "", err
	}
	if _, err := w.follow(ctx, r.ID, proctest.Patience, "Succeeded"); err != nil {
		return "", err
	}
	var reused int64
	if s, err := d.local(ctx); err == nil {
		reused = s.BytesReused
	}
	w.n.figure("agent killed mid-install: verified bytes reused", 100*min(1, float64(reused)/float64(done)), "%")
	return fmt.Sprintf("the old model served on; the install was resumed: of at least %d MiB that it had, %d MiB were not fetched again", done>>20, reused>>20), nil
}

// local asks the device's agent, on its socket, about the demo's model.
func (d *device) local(ctx context.Context) (local.Model, error) {
	m, err := local.NewClient(local.ClientOptions{Socket: d.socket, App: "demo"}).Describe(ctx, model)
	if err != nil {
		return m, fmt.Errorf("ask %s: %w", d.id, err)
	}
	return m, nil
}

// odd is the device that the release of the tampering act is rolled out to.
func (w *world) odd() *device { return w.agents[len(w.agents)-1] }

// serves checks which release the device's applications are given now.
func (w *world) serves(ctx context.Context, d *device, want string) error {
	m, err := d.local(ctx)
	switch {
	case err != nil:
		return err
	case m.Serving == nil:
		return fmt.Errorf("%s serves nothing, want %s", d.id, want)
	case m.Serving.Ref != want:
		return fmt.Errorf("%s serves %s, want %s", d.id, m.Serving.Ref, want)
	}
	return nil
}
