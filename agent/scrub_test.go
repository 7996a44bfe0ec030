package agent_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// rot flips a bit of a file that is served, as a worn flash would: the file's
// name, size and times stay.
func (d *device) rot(path string) {
	d.t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		d.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], fi.Size()/2); err != nil {
		d.t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], fi.Size()/2); err != nil {
		d.t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), os.Chmod(path, fi.Mode()), os.Chtimes(path, fi.ModTime(), fi.ModTime())); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) served(name string) string {
	return filepath.Join(d.o.State, "models", string(agenttest.Model), "current", name)
}

// A file of what is served loses a bit: it is found, put right from the bucket
// while applications are served, told to them, and told to the fleet.
func TestADamagedFileIsFoundMendedAndTold(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o.Scrub = 50 * time.Millisecond
	want := string(bytes.Repeat([]byte("weights "), 700_000)) // more than a frame
	v1 := d.fleet.Publish("1.0.0", map[string]string{"weights.bin": want, "card.md": "# one"})
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)

	loads := make(chan local.Loaded, 4)
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		followed <- d.cl.Follow(ctx, agenttest.Model, func(l local.Loaded) error {
			loads <- l
			return nil
		})
	}()
	defer func() { stop(); <-followed }()
	first := <-loads
	old, err := os.Open(d.served("weights.bin")) // as an application that maps it
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()

	d.rot(d.served("weights.bin"))
	m := d.until("mended", func(m local.Model) bool { return m.Serving != nil && !m.Serving.Mended.IsZero() })
	if m.Phase != fleet.Healthy || m.Damaged || len(m.Quarantined) > 0 || m.Serving.Path != first.Path {
		t.Errorf("after the mending: %+v", m)
	}
	if got := d.content(); got != want {
		t.Errorf("what is served is still wrong, %d bytes", len(got))
	}
	if _, err := old.Stat(); err != nil {
		t.Errorf("who has the old file open lost it: %v", err)
	}
	select {
	case l := <-loads:
		if l.Root != first.Root || l.Path != first.Path || !l.Mended.Equal(m.Serving.Mended) {
			t.Errorf("the application loaded %+v after %+v", l, first)
		}
	case <-time.After(patience):
		t.Error("the application was not told to load again")
	}
	d.row("a damaged file", func(r telemetry.Row, m telemetry.Model) bool {
		for _, s := range m.Series { // loading again is no crash
			if s.Fatal > 0 {
				t.Errorf("it counts as fatal: %+v", s)
			}
		}
		return r.Delivery.Damaged == 1 && m.Phase == fleet.Healthy && m.Failure == fleet.NoFailure
	})
}

// Without the bucket a damaged file is served on, and put right once the bucket
// is back, also by the next start of the agent.
func TestDamageWaitsForTheBucket(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o.Scrub = 50 * time.Millisecond
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	files := filepath.Join(d.fleet.Bucket, "files")
	if err := os.Rename(files, files+".gone"); err != nil {
		t.Fatal(err)
	}
	d.rot(d.served("weights.bin"))
	m := d.until("damaged", func(m local.Model) bool { return m.Damaged })
	if m.Serving == nil || m.Serving.Ref != v1.Ref() || m.Phase != fleet.Healthy {
		t.Errorf("while it is damaged: %+v", m)
	}
	d.kill()
	if err := os.Rename(files+".gone", files); err != nil {
		t.Fatal(err)
	}
	d.run()
	d.until("mended", func(m local.Model) bool { return !m.Damaged && m.Serving != nil && !m.Serving.Mended.IsZero() })
	if got := d.content(); got != "one" {
		t.Errorf("current holds %q", got)
	}
}

// The way back is looked at too: a return serves what was signed.
func TestADamagedFallbackIsMendedToo(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o.Scrub = 50 * time.Millisecond
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	path := d.serves(v1, fleet.Healthy).Serving.Path
	d.fleet.Direct(&v1, &v2, 100*time.Millisecond)
	d.serves(v2, fleet.Healthy)
	d.rot(filepath.Join(path, "weights.bin"))
	deadline := time.Now().Add(patience)
	for content := ""; content != "one"; {
		if time.Now().After(deadline) {
			t.Fatalf("the fallback holds %q", content)
		}
		<-time.After(20 * time.Millisecond)
		b, err := os.ReadFile(filepath.Join(path, "weights.bin"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		content = string(b)
	}
	d.fleet.Direct(&v1, nil, 0)
	d.serves(v1, fleet.RolledBack)
	if got := d.content(); got != "one" {
		t.Errorf("went back to %q", got)
	}
}

// A disk that nothing is wrong with is found so, and nothing happens.
func TestAWholeDiskIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o.Scrub = 10 * time.Millisecond
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	m := d.serves(v1, fleet.Healthy)
	<-time.After(200 * time.Millisecond)
	l, err := d.cl.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if now := l.Models[0]; l.Damaged != 0 || !now.Serving.Mended.IsZero() || !now.Since.Equal(m.Since) {
		t.Errorf("it did something: %+v", l)
	}
}
