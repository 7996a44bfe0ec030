package delivery_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// The workers of an install read foreign bytes in goroutines of their own: a panic
// there is the install's failure, and the next one goes on from what is here.
func TestAPanicInAWorkerIsAFailedInstall(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		for what, set := range map[string]func(trap func()){
			"index": func(trap func()) { w.src.get = func(string) error { trap(); return nil } },
			"frames": func(trap func()) {
				w.src.body = func(_ context.Context, _ string, _ int64, rc io.ReadCloser) io.ReadCloser { trap(); return rc }
			},
		} {
			var calls atomic.Int64
			set(func() {
				if calls.Add(1) == 1 {
					panic("index out of range")
				}
			})
			_, err := w.fetcher(nil).Install(t.Context(), want, nil)
			if !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), "panic: index out of range") {
				t.Fatalf("%s: a panic is %v", what, err)
			}
			w.src.get, w.src.body = nil, nil
		}
		res, err := w.fetcher(nil).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
	})
}
