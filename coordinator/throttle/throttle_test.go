package throttle_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func TestWhoFailsTooOftenWaits(t *testing.T) {
	now := time.Now()
	th := throttle.New(throttle.Options{PerAddress: 3, Overall: 10, Window: time.Minute, Now: func() time.Time { return now }})
	fail := func(from string, n int) {
		for range n {
			th.Failed(from)
		}
	}
	fail("192.0.2.1", 3)
	if err := th.Check("192.0.2.1"); !fault.Is(err, fault.Transient) {
		t.Errorf("after three failures: %v", err)
	}
	if err := th.Check("192.0.2.2"); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	fail("2001:db8::1", 1)
	fail("2001:db8::2", 2) // one network has 2^64 addresses
	if err := th.Check("2001:db8::3"); err == nil {
		t.Error("an IPv6 network is not taken for one")
	}
	for i := range 4 {
		fail(fmt.Sprint("198.51.100.", i), 1)
	}
	if err := th.Check("198.51.100.1"); err == nil {
		t.Error("ten failures of many addresses slow none of them down")
	}
	if err := th.Check("203.0.113.9"); err != nil {
		t.Errorf("somebody who failed nothing waits for what others did: %v", err)
	}
	now = now.Add(time.Minute)
	if err := th.Check("192.0.2.1"); err != nil {
		t.Errorf("a window later: %v", err)
	}
}

// Many addresses that fail without end keep nobody else out, and cost no more memory
// than so much.
func TestNobodyIsKeptOutByOthers(t *testing.T) {
	now := time.Now()
	th := throttle.New(throttle.Options{Now: func() time.Time { return now }})
	for i := range 20_000 {
		from := fmt.Sprintf("2001:db8:%x:%x::1", i>>8, i)
		for th.Check(from) == nil && i < 4000 {
			th.Failed(from)
		}
		th.Failed(from)
	}
	for _, from := range []string{"192.0.2.1", "2001:db9::1"} {
		if err := th.Check(from); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
}
