package attack_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// beats has a heartbeat look after the bucket, more often than Lambda calls it,
// until the test ends.
func (f *field) beats(life time.Duration) {
	f.t.Helper()
	file, err := api.LoadFleetFile(filepath.Join(f.dir, "fleet", api.FleetFileName))
	sure(f.t, err)
	o := beat.Options{Bucket: f.bucket.store, Pin: file.Root, Key: f.key("timestamp"), Life: life, Logger: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := beat.Beat(ctx, o, time.Now()); err != nil && ctx.Err() == nil && !fault.KindOf(err).Retry() {
				f.t.Errorf("heartbeat: %v", err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	f.t.Cleanup(func() { stop(); wg.Wait() })
}

// ends is when the pack in the bucket stops being fresh.
func (f *field) ends() time.Time {
	f.t.Helper()
	pack := f.pack()
	file, err := api.LoadFleetFile(filepath.Join(f.dir, "fleet", api.FleetFileName))
	sure(f.t, err)
	st, err := trust.NewState(f.bucket.get(f.t, trust.MetadataKey("root", 1)), file.Root)
	sure(f.t, err)
	got, _, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, time.Now())
	sure(f.t, err)
	return got.Expires
}

// url is the pack's URL that the device keeps, and is shown to nobody.
func (d *device) url() string {
	d.f.t.Helper()
	d.until("it keeps a URL of the pack", func(l local.Listing) bool { return l.PackURL != nil && !l.PackURL.Until.IsZero() })
	path := filepath.Join(d.state, "pack-url.json")
	info, err := os.Stat(path)
	sure(d.f.t, err)
	if info.Mode().Perm() != 0o600 {
		d.f.t.Errorf("%s has mode %v", path, info.Mode())
	}
	b, err := os.ReadFile(path)
	sure(d.f.t, err)
	_, sig, _ := strings.Cut(string(b), "X-Amz-Signature=")
	sig, _, _ = strings.Cut(strings.ReplaceAll(sig, `"`, `&`), "&")
	sig, _, _ = strings.Cut(sig, `\`)
	if len(sig) != 64 {
		d.f.t.Fatalf("no signature in %s", b)
	}
	return sig
}

// secret checks that nobody was told a URL.
func (d *device) secret(signature string) {
	d.f.t.Helper()
	l, err := d.list()
	sure(d.f.t, err)
	for name, text := range map[string]string{"the log": d.Said(), "the coordinator's log": d.f.coord.Said(), "the status": l.PackURL.Trouble + l.Refused + l.Remedy} {
		if strings.Contains(text, signature) {
			d.f.t.Errorf("%s has the URL", name)
		}
	}
}

// The coordinator is gone and the heartbeat is not: a device that has nothing but
// URLs from the coordinator stays fresh for longer than what it had. It hears of a
// revocation, too, that it has no line to the coordinator for.
func TestCoordinatorGone(t *testing.T) {
	t.Parallel()
	const life = 16 * time.Second
	f := newField(t, fieldOptions{life: life})
	m := newMiddle(t, f.listen)
	d := f.enrols("cam-1", readdress(t, f.token(), "https://"+m.addr))
	d.up()
	f.runs("detector@1.0.0", "one", d)
	f.runs("detector@2.0.0", "two", d)
	secret := d.url()
	m.turn(cuts)
	ends(t, f.coord, syscall.SIGKILL)
	f.beats(life)
	had := f.ends()
	ends(t, d.Program, syscall.SIGKILL) // a start forgets neither what it knew nor the URL
	f.restart(d.Program)
	d.until("it says how it stands", func(l local.Listing) bool { return !l.FreshnessSince.IsZero() })
	up := time.Now()
	until(t, "what was signed before the outage has ended", func() (bool, string) {
		return time.Now().After(had.Add(life / 4)), "until " + had.String()
	})
	l, err := d.list()
	sure(t, err)
	if l.Freshness != "fresh" || l.FreshnessSince.After(up) {
		t.Errorf("%s since %s, it was up again at %s: %s", l.Freshness, l.FreshnessSince, up, l.Refused)
	}
	d.stillServes("detector@2.0.0", "two")

	// It decides again, but this device has no line to it.
	f.restart(f.coord)
	f.answers()
	f.run("releases", "delist", "detector@2.0.0", "--reason", "poisoned", "--dir", "fleet")
	d.until("it has left the release", func(l local.Listing) bool { return serving(l, model) == "detector@1.0.0" })
	d.stillServes("detector@1.0.0", "one")
	if d.Logged("coordinator is back") {
		t.Error("the line was not cut")
	}
	d.secret(secret)
	m.turn(passes)
	f.sees("cam-1", "fresh", func(m api.MemberInfo) bool { return m.Freshness == "fresh" })
}

// A URL that has ended changes nothing: the device goes stale as one without, says
// why and what to do, once, and is fresh again with the coordinator.
func TestPackURLEnded(t *testing.T) {
	t.Parallel()
	const life = 8 * time.Second
	f := newField(t, fieldOptions{life: life, flags: []string{"-pack-url-life", "3s"}})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	secret := d.url()
	ends(t, f.coord, syscall.SIGKILL)
	mark := len(d.Said())
	until(t, "the URL has ended", func() (bool, string) {
		l, err := d.list()
		return err == nil && time.Now().After(l.PackURL.Until.Add(time.Second)), ""
	})
	f.beats(life)
	d.until("it is stale, and says what became of the URL", func(l local.Listing) bool {
		return l.Freshness == "stale" && strings.Contains(l.PackURL.Trouble, "it ended; ")
	})
	d.stillServes("detector@1.0.0", "one")
	d.logs("the bucket refuses the pack url")
	ends(t, d.Program, syscall.SIGKILL)
	f.restart(d.Program)
	d.until("it is stale after a start", func(l local.Listing) bool { return l.Freshness == "stale" })
	d.logs("the bucket refuses the pack url", "kind=denied") // as S3 says it
	if n := strings.Count(d.Said()[mark:], "the bucket refuses the pack url"); n > 2 {
		t.Errorf("%d lines about one URL", n)
	}
	d.secret(secret)
	f.restart(f.coord)
	f.answers()
	f.sees("cam-1", "fresh", func(m api.MemberInfo) bool { return m.Freshness == "fresh" })
	d.until("it keeps another URL", func(l local.Listing) bool { return l.PackURL.Trouble == "" })
}
