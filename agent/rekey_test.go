package agent_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// said is a log that notes which messages it was given.
type said struct {
	slog.Handler
	mu   *sync.Mutex
	what map[string]int
}

func newSaid(t *testing.T) *said {
	return &said{slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}), new(sync.Mutex), map[string]int{}}
}

// Handle notes a message.
func (s *said) Handle(ctx context.Context, r slog.Record) error {
	s.mu.Lock()
	s.what[r.Message]++
	s.mu.Unlock()
	return s.Handler.Handle(ctx, r)
}

func (s *said) until(t *testing.T, message string) {
	t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		s.mu.Lock()
		n := s.what[message]
		s.mu.Unlock()
		if n > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never said %q", message)
		}
	}
}

// A stolen device is shut out of its cell on real sockets: the others get another
// key over their own lines and go on as a cell; it hears no pack any more.
func TestAStolenDeviceIsShutOutOfItsCell(t *testing.T) {
	t.Parallel()
	f := agenttest.New(t)
	c := f.Serve()
	v1, v2 := f.Publish("1.0.0", weights("one")), f.Publish("2.0.0", weights("two"))
	f.Direct(&v1, nil, 0)
	logs := map[fleet.MemberID]*said{"near": newSaid(t), "far": newSaid(t), "thief": newSaid(t)}
	devices := map[fleet.MemberID]*device{}
	for _, id := range []fleet.MemberID{"near", "far", "thief"} {
		d := addDevice(t, f, c, id)
		d.o.Gossip, d.o.Logger = "127.0.0.1:0", slog.New(logs[id])
		d.plug()
		d.run()
		d.serves(v1, fleet.Healthy)
		devices[id] = d
	}
	f.Direct(&v2, nil, 0)
	for _, d := range devices {
		d.serves(v2, fleet.Healthy)
	}
	f.Revoke(c.Rekey(2*time.Second), "thief")
	f.Direct(&v2, nil, 0)
	logs["near"].until(t, "cell key changed")
	logs["far"].until(t, "cell key changed")
	logs["thief"].until(t, "cell key not had")            // it asked, and was refused
	for _, id := range []fleet.MemberID{"far", "thief"} { // neither coordinator nor bucket: only the cell is left
		c.Cut(id)
		devices[id].pull()
	}
	f.Change(repository.Change{Delist: []string{v2.Ref()}})
	f.Offer(f.Refresh())
	devices["near"].serves(v1, fleet.Quarantined)
	devices["far"].serves(v1, fleet.Quarantined) // by its neighbour, under the new key
	<-time.After(2 * time.Second)
	devices["thief"].until("it still runs 2.0.0", func(m local.Model) bool {
		return m.Serving != nil && m.Serving.Ref == v2.Ref() && m.Phase == fleet.Healthy
	})
	// Who restarts has the key on its disk.
	id, err := identity.Load(t.Context(), identity.Options{Dir: filepath.Join(devices["far"].o.State, "identity")})
	if err != nil || id.Identity().Cell.Number != 1 {
		t.Errorf("the key is not kept: %v", err)
	}
}
