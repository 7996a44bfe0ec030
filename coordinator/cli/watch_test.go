package cli_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
)

// A watch says in sentences who downloads and who cannot, each once and not at
// every look, and how the rollout ends.
func TestAWatchTellsOfDownloads(t *testing.T) {
	t.Parallel()
	still := newStill()
	var looks atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/r4-demo") && looks.Add(1) == 6 {
			end := httptest.NewRequest(http.MethodPost, "/v1/rollouts/r4-demo/rollback", strings.NewReader(`{"reason":"ghosts"}`))
			end.Header = r.Header
			still.ServeHTTP(httptest.NewRecorder(), end)
		}
		still.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	var out, errs bytes.Buffer
	env := map[string]string{"MODELFLEET_URL": srv.URL, "MODELFLEET_TOKEN": stillToken, "HOME": t.TempDir()}
	code := cli.Run(t.Context(), cli.Options{
		Args:    []string{"rollout", "watch", "r4-demo", "--every", "10ms"},
		Streams: console.Streams{In: strings.NewReader(""), Out: &out, Err: &errs},
		Env:     func(k string) string { return env[k] }, Version: "v1.2.3", Now: func() time.Time { return moment },
	})
	want := `09:41:00  1 member cannot fetch: network, since 2026-11-24 09:29:00Z (12m0s); it tries again, and it does not count against the release
09:41:00  2 members download: 20.0 MiB of 36.0 MiB (55%), 2.0 MiB/s, about 9s left; 16.0 MiB from neighbours, 4.0 MiB from the bucket
09:41:00  scorer@1.4.0 is being rolled out: stage quarter (2/2) soaks, 13 of 13 members told
09:41:00  scorer@1.4.0 was rolled back: 13 ever ran it, 0 run it now; rolled back by ana: ghosts
`
	if code != 0 || out.String() != want {
		t.Errorf("exit %d, %s\nsaid\n%s\nwant\n%s", code, errs.String(), out.String(), want)
	}
}
