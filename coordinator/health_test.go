package coordinator_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// What runs out is told to whoever asks, and to operators whatever they ask.
func TestWhatRunsOutIsTold(t *testing.T) {
	w := newWorld(t, func(o *repository.InitOptions) { o.Lifetimes.Root = 20 * 24 * time.Hour })
	w.start()
	h, err := w.admin.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Findings) == 0 || h.Findings[0].Subject != "root" || h.Findings[0].Severity != api.Urgent || h.Findings[0].Remedy == "" {
		t.Errorf("a root of 20 days: %+v", h.Findings)
	}
	if len(h.Expiries) < 5 || h.Expiries[0].Subject != "timestamp" || time.Since(h.At) > time.Minute {
		t.Errorf("expiries: %+v at %s", h.Expiries, h.At)
	}
	token := must(api.LoadContext(w.opts.Data + "/admin.context.json"))(t).Token
	body := string(must(io.ReadAll(w.plain("GET", "/metrics", "", "Authorization", "Bearer "+token).Body))(t))
	for _, want := range []string{`modelfleet_expiry_seconds{role="root"} 1.7`, `modelfleet_expiry_seconds{role="device CA"}`, `modelfleet_findings_count{severity="urgent"} 1`, `modelfleet_findings_count{severity="bad"} 0`} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	var told []string
	viewer := w.operator("vi", api.Viewer)
	viewer.OnNotice(func(text string) { told = append(told, text) })
	if _, err := viewer.Releases(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "root expires in 19 days") || !strings.Contains(told[0], "modelfleet key renew root") {
		t.Errorf("told: %q", told)
	}
	if got := w.plain("GET", "/v1/packs/default", "").Header.Get(api.NoticeHeader); got != "" {
		t.Errorf("a member is told of the fleet's keys: %s", got)
	}
	if got := w.plain("GET", "/v1/fleet", "").Header.Get(api.NoticeHeader); got != "" {
		t.Errorf("a stranger is told of the fleet's keys: %s", got)
	}
	stranger := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin}))(t)
	if _, err := stranger.Health(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("a stranger asked: %v", err)
	}
}
