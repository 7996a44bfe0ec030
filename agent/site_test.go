package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// sharers is a log that notes how many members share, as an agent sees it.
type sharers struct {
	slog.Handler
	n *atomic.Int64
}

func (s sharers) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "neighbours seen" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "count" {
				s.n.Store(a.Value.Int64())
			}
			return true
		})
	}
	return s.Handler.Handle(ctx, r)
}

// A release for all members of a site leaves the bucket about once, and so does
// the next one: agents, a coordinator, gossip and sockets as they are.
func TestASiteTakesAReleaseOnce(t *testing.T) {
	t.Parallel()
	const members = 5
	f := agenttest.New(t)
	c := f.Serve()
	var out atomic.Int64
	files := http.FileServer(http.Dir(f.Bucket))
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files.ServeHTTP(&counted{w, &out, strings.HasSuffix(r.URL.Path, "/raw") || strings.HasSuffix(r.URL.Path, "/full")}, r)
	}))
	t.Cleanup(bucket.Close)
	weights := func(seed byte) map[string]string {
		b := make([]byte, 1<<20)
		if _, err := rand.NewChaCha8([32]byte{seed}).Read(b); err != nil {
			t.Fatal(err)
		}
		return map[string]string{"weights.bin": string(b)}
	}
	var devices []*device
	seen := make([]atomic.Int64, members)
	for i := range members {
		d := addDevice(t, f, c, fleet.MemberID(fmt.Sprintf("dev-%d", i)))
		d.o.Source, d.o.Gossip, d.o.Probe = bucket.URL, "127.0.0.1:0", probe.Options{}
		d.o.Logger = slog.New(sharers{slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}), &seen[i]})
		d.run()
		devices = append(devices, d)
	}
	for i := range seen {
		for end := time.Now().Add(patience); seen[i].Load() < members; <-time.After(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("dev-%d sees %d that share", i, seen[i].Load())
			}
		}
	}
	for i, v := range []fleet.Version{"1.0.0", "2.0.0"} {
		before := out.Load()
		r := f.PublishShards(v, weights(byte(i)), 64<<10)
		f.Direct(&r, nil, 0)
		for _, d := range devices {
			d.serves(r, fleet.Healthy)
		}
		if copies := float64(out.Load()-before) / float64(r.Variants[0].Size); copies > 1.5 {
			t.Errorf("%s left the bucket %.2f times for %d members", r.Ref(), copies, members)
		}
	}
}

// counted counts what is written of objects that matter.
type counted struct {
	http.ResponseWriter
	n    *atomic.Int64
	this bool
}

func (c *counted) Write(b []byte) (int, error) {
	if c.this {
		c.n.Add(int64(len(b)))
	}
	return c.ResponseWriter.Write(b)
}
