package s3_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Each answer of a real server carries its clock; a time far ahead of it is refused.
func TestTheServersClockIsKnown(t *testing.T) {
	s := open(t, server(t), nil)
	if _, ok := s.Time(); ok {
		t.Error("a time before any answer")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	there, ok := s.Time()
	if off := time.Until(there); !ok || off.Abs() > time.Minute {
		t.Errorf("the server's clock is %s off (%v)", off, ok)
	}
	for ahead, want := range map[time.Duration]bool{-time.Hour: true, 0: true, time.Minute: true, 10 * time.Minute: false, 365 * 24 * time.Hour: false} {
		if err := registry.CheckClock(t.Context(), s, "tuf/timestamp.json", time.Now().Add(ahead)); (err == nil) != want || err != nil && !fault.Is(err, fault.Transient) {
			t.Errorf("%s ahead: %v, good: %v", ahead, err, want)
		}
	}
}
