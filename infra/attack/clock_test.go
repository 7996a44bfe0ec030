package attack_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"log/slog"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Somebody sets a device's clock, back by a year and then ahead by one. The agent
// runs in this process, which is where its clock can be set; all else is real.
func TestClockMovedBothWays(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	dir, err := os.MkdirTemp("", "mfa")
	sure(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &device{f: f, id: "cam-1", state: filepath.Join(f.dir, "cam-1"), socket: filepath.Join(dir, "s"), packFile: filepath.Join(f.dir, "cam-1.pack.zst")}
	d.Program = &proctest.Program{Name: "cam-1", Log: filepath.Join(f.dir, "cam-1.log")}
	said, err := os.Create(d.Log)
	sure(t, err)
	defer said.Close()
	var off atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- agent.Run(ctx, agent.Options{
			State: d.state, Token: f.token(), ID: "cam-1", Socket: d.socket, Pack: d.packFile, Report: 300 * time.Millisecond, Soak: 200 * time.Millisecond, Retry: time.Second,
			Version: version, Logger: slog.New(slog.NewTextHandler(said, nil)), Clock: func() time.Time { return time.Now().Add(time.Duration(off.Load())) },
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	d.up()
	f.runs("detector@1.0.0", "one", d)
	old := f.pack()
	f.runs("detector@2.0.0", "two", d)

	const year = 365 * 24 * time.Hour
	off.Store(int64(-year)) // what is signed now says that the clock is wrong
	d.offers(old)
	d.refuses("file", trust.RuleTimestamp)
	f.runs("detector@3.0.0", "three", d)

	off.Store(int64(year)) // everything seems to have expired: it holds, and serves
	f.publish("vision", "detector@4.0.0", "four")
	id := f.start("detector@4.0.0")
	d.until("it is stale", func(l local.Listing) bool { return l.Freshness == "stale" })
	d.stillServes("detector@3.0.0", "three")
	off.Store(0)
	f.settled(id)
	d.settles("detector@4.0.0")
	f.untrusted(d, false)
}
