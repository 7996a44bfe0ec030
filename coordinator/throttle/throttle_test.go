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

// Many addresses that fail without end keep nobody out who signed in before, and cost
// no more memory than so much.
func TestNobodyIsKeptOutByOthers(t *testing.T) {
	now := time.Now()
	th := throttle.New(throttle.Options{Now: func() time.Time { return now }})
	th.Succeeded("192.0.2.1")
	th.Succeeded("2001:db9::1")
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

// guess counts how many guesses come through from addresses in turn, of which each
// fails.
func guess(th *throttle.Throttle, n int, from func(i int) string) (through int) {
	for i := range n {
		if th.Check(from(i)) == nil {
			th.Failed(from(i))
			through++
		}
	}
	return through
}

// Whoever has a whole IPv6 site, or thousands of them, guesses no more often than so
// much; who signed in before is not kept out, nor are those who live next door.
func TestASiteOfNetworksIsOneGuesser(t *testing.T) {
	now := time.Now()
	th := throttle.New(throttle.Options{Now: func() time.Time { return now }})
	th.Succeeded("2001:db8:1:ffff::9")
	if n := guess(th, 65_536, func(i int) string { return fmt.Sprintf("2001:db8:1:%x::1", i) }); n > 110 {
		t.Errorf("%d guesses from a /48 in a minute", n)
	}
	for _, from := range []string{"2001:db8:2::1", "192.0.2.1", "2001:db8:1:ffff::1"} {
		if err := th.Check(from); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	now = now.Add(time.Minute)
	if n := guess(th, 256, func(i int) string { return fmt.Sprintf("2001:db8:7:%x::1", i) }); n > 20 {
		t.Errorf("%d guesses from a /56 in a minute", n)
	}
	if err := th.Check("2001:db8:7:aa00::1"); err != nil {
		t.Errorf("another customer of the same site: %v", err)
	}
	now = now.Add(time.Minute)
	botnet := func(i int) string { return fmt.Sprintf("100.%d.%d.%d", i>>16, i>>8&255, i&255) }
	if n := guess(th, 100_000, botnet); n > 5000 {
		t.Errorf("%d guesses of 100,000 addresses in a minute", n)
	}
	if err := th.Check("2001:db8:1:ffff::1"); err != nil {
		t.Errorf("who signed in before waits for what others did: %v", err)
	}
	now = now.Add(time.Minute)
	if err := th.Check(botnet(99_999)); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}
