package web

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// modelReleases are the releases of one model, newest first.
type modelReleases struct {
	Model    fleet.ModelName
	Releases []releaseRow
}

type releaseRow struct {
	api.ReleaseInfo
	Class   string
	Size    int64 // of the largest variant
	Metrics []metric
}

type metric struct{ Name, Value string }

func (s *site) releasesPage(r *http.Request, who visitor) (view, error) {
	all, err := s.Source.Releases(r.Context(), who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	p := palette(all)
	by := map[fleet.ModelName][]releaseRow{}
	for _, x := range all { // newest first
		row := releaseRow{ReleaseInfo: x, Class: p[x.Release.Ref()]}
		for _, v := range x.Release.Variants {
			row.Size = max(row.Size, v.Size)
		}
		for _, name := range slices.Sorted(maps.Keys(x.Metrics)) {
			row.Metrics = append(row.Metrics, metric{name, chart.Number(x.Metrics[name])})
		}
		by[x.Release.Model] = append(by[x.Release.Model], row)
	}
	var models []modelReleases
	for _, m := range slices.Sorted(maps.Keys(by)) {
		models = append(models, modelReleases{m, by[m]})
	}
	return view{page: "releases", title: "Releases", nav: "releases", data: models}, nil
}

// auditView is a page of the log, newest first.
type auditView struct {
	Splits       []api.AuditSplit
	Entries      []auditRow
	Older, Newer uint64 // where the neighbouring pages begin; 0: there is none
}

type auditRow struct {
	api.AuditEntry
	Link   string
	Detail string
}

const auditPerPage = 100

// auditPage shows a hundred entries up to "to", or the newest.
func (s *site) auditPage(r *http.Request, who visitor) (view, error) {
	var to uint64
	fmt.Sscan(r.FormValue("to"), &to) // a wrong number shows the newest
	ctx := r.Context()
	entries, err := s.Source.Audit(ctx, who.OperatorToken, 0, -auditPerPage)
	if err != nil {
		return view{}, err
	}
	var v auditView
	if v.Splits, err = s.Source.Splits(ctx, who.OperatorToken); err != nil {
		return view{}, err
	}
	if n := len(entries); n > 0 && to > 0 && to < entries[n-1].Index {
		if v.Newer = to + auditPerPage; v.Newer > entries[n-1].Index {
			v.Newer = entries[n-1].Index
		}
		if entries, err = s.Source.Audit(ctx, who.OperatorToken, to-min(to, auditPerPage), auditPerPage); err != nil {
			return view{}, err
		}
	}
	if len(entries) > 0 {
		if first := entries[0].Index; first > 1 {
			v.Older = first - 1
		}
	}
	for _, e := range slices.Backward(entries) {
		v.Entries = append(v.Entries, auditRow{e, subjectLink(e), indent(e.Detail)})
	}
	return view{page: "audit", title: "Audit log", nav: "audit", data: v}, nil
}

// subjectLink leads to what an entry is about, where there is a page for it.
func subjectLink(e api.AuditEntry) string {
	kind, _, _ := strings.Cut(e.Action, ".")
	switch {
	case strings.HasPrefix(kind, "rollout") || strings.HasPrefix(kind, "stage"):
		return "/rollouts/" + e.Subject
	case strings.HasPrefix(kind, "member"):
		return "/members/" + e.Subject
	}
	return ""
}

func indent(raw json.RawMessage) string {
	if len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return string(raw)
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return string(raw)
	}
	return string(b)
}

// logDepth is how far back a rollout's page looks for its own entries.
const logDepth = 2000

// logOf are the newest entries about a subject, newest first.
func (s *site) logOf(ctx context.Context, who visitor, subject string) ([]api.AuditEntry, error) {
	if !who.Scope.IsZero() {
		return nil, nil // the log is of the whole fleet
	}
	all, err := s.Source.Audit(ctx, who.OperatorToken, 0, -logDepth)
	if err != nil {
		return nil, err
	}
	var own []api.AuditEntry
	for _, e := range slices.Backward(all) {
		if e.Subject == subject {
			own = append(own, e)
		}
	}
	return own, nil
}

// events is a stream that says when a page is worth refreshing. It carries no
// more than that: the page itself is rendered by the server as before.
func (s *site) events(w http.ResponseWriter, r *http.Request, who visitor) {
	ctl := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	happened := s.Source.Subscribe(r.Context(), who.OperatorToken)
	err := ctl.Flush() // the headers, so that the browser knows it is heard
	for err == nil {
		select {
		case <-r.Context().Done():
			return
		case ev, ok := <-happened:
			if !ok {
				return
			}
			text, _ := json.Marshal(ev) // times and strings always encode
			_, err = fmt.Fprintf(w, "data: %s\n\n", text)
		case <-beat.C:
			if _, err := s.visitor(r, false); err != nil {
				return // signed out meanwhile
			}
			_, err = fmt.Fprint(w, ": still here\n\n")
		}
		if err == nil {
			err = ctl.Flush()
		}
	} // an error: the browser went away
}
