package dir_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// In the bubble this machine's clock is set by the test, and the files' times are given
// by the system, as a share's server gives them.
func TestAFolderOfAServerHasAClock(t *testing.T) {
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := dir.Open(folder)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		check := func() error { return registry.CheckClock(t.Context(), s, "timestamp.json", time.Now()) }
		if err := check(); err != nil {
			t.Errorf("a clock behind the share's: %v", err)
		}
		there, ok := s.Time()
		if !ok || there.Before(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("the share's time is %s, %v", there, ok)
		}
		time.Sleep(time.Second)
		if later, _ := s.Time(); later.Sub(there) != time.Second {
			t.Errorf("a second later it is %s later", later.Sub(there))
		}
		time.Sleep(100 * 365 * 24 * time.Hour)
		if err := check(); !fault.Is(err, fault.Transient) {
			t.Errorf("a clock far ahead of the share's: %v", err)
		}
		for o, err := range s.List(t.Context(), "") {
			t.Errorf("looking left %s, %v", o.Key, err)
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
			t.Errorf("looking left %v, %v", left, err)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, ok := s.Time(); ok {
			t.Error("a folder in which nothing can be written has a clock")
		}
		if err := check(); err != nil {
			t.Error(err)
		}
	})
}
