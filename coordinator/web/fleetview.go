package web

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// fleetView is the first page: is everything as it should be, and what moves?
type fleetView struct {
	Info          api.FleetInfo
	Total         int
	PackFresh     bool
	UnderWay      []rolloutCard
	Models        []modelBar
	Sites         []place
	Hidden        int // members the map leaves out
	Attention     []attention
	MoreAttention int // attentions left out
}

// modelBar is what the members run of one model.
type modelBar struct {
	Model fleet.ModelName
	Bar   template.HTML
	Rows  []modelRow
	None  int
}

type modelRow struct {
	Class, Ref, Version string
	Members             int
	Barred              string // why no member may run it; "": it may
}

// place is one LAN of the map, or one arm of a rollout.
type place struct {
	Name  string
	Cells []cellMark
}

// cellMark is one member's square on the map.
type cellMark struct {
	ID    fleet.MemberID
	Class string
	Title string
}

// attention is a member a person should look at, and why.
type attention struct {
	ID   fleet.MemberID
	Tone string
	What string
}

// mapLimit is how many members the map shows; past it squares help nobody.
const mapLimit = 1200

func (s *site) fleetPage(r *http.Request, who visitor) (view, error) {
	ctx := r.Context()
	info, err := s.Source.Fleet(ctx, who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	all, err := s.Source.Members(ctx, who.OperatorToken, fleet.Selector{})
	if err != nil {
		return view{}, err
	}
	members := s.present(all)
	rollouts, err := s.Source.Rollouts(ctx, who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	releases, err := s.Source.Releases(ctx, who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	p := palette(releases)
	v := fleetView{
		Info: info, Total: info.Members + info.Functions,
		PackFresh: s.Now().Before(info.Pack.Expires),
		Models:    modelBars(members, releases, p),
	}
	for _, x := range rollouts {
		if x.Ended.IsZero() {
			v.UnderWay = append(v.UnderWay, newCard(x))
		}
	}
	v.Sites, v.Hidden = siteMap(members, p, s.quiet)
	v.Attention = s.attentions(members, releases)
	if n := len(v.Attention); n > 8 {
		v.Attention, v.MoreAttention = v.Attention[:8], n-8
	}
	return view{page: "fleet", title: "Fleet", nav: "fleet", data: v}, nil
}

// present are the members that are there to be looked at: not revoked, and not a
// function's environment that has gone, as they do without a word.
func (s *site) present(all []api.MemberInfo) []api.MemberInfo {
	return slices.DeleteFunc(slices.Clone(all), func(m api.MemberInfo) bool {
		return m.Revoked || (m.Facts.Kind == fleet.Function && s.Now().Sub(m.Seen) > s.Silent)
	})
}

// palette gives each release a colour class that stays its own: by its place in the
// order of admission, so that neighbours of a model differ. Counters begin anew with
// a team's keys.
func palette(releases []api.ReleaseInfo) map[string]string {
	p, n := make(map[string]string, len(releases)), map[fleet.ModelName]int{}
	for _, r := range slices.Backward(releases) { // the oldest first
		n[r.Release.Model]++
		p[r.Release.Ref()] = fmt.Sprintf("c%d", n[r.Release.Model]%6)
	}
	return p
}

// modelBars counts, model by model, what members observe themselves running.
func modelBars(members []api.MemberInfo, releases []api.ReleaseInfo, p map[string]string) []modelBar {
	running := map[fleet.ModelName]map[string]int{}
	for _, m := range members {
		for _, st := range m.Models {
			if running[st.Model] == nil {
				running[st.Model] = map[string]int{}
			}
			running[st.Model][st.Running]++
		}
	}
	order, barred := map[string]int{}, map[string]string{}
	for i, r := range releases { // newest first
		order[r.Release.Ref()], barred[r.Release.Ref()] = len(releases)-i, r.RevokedFor
	}
	var bars []modelBar
	for _, model := range slices.Sorted(maps.Keys(running)) {
		bar := modelBar{Model: model, None: running[model][""]}
		delete(running[model], "")
		refs := slices.SortedFunc(maps.Keys(running[model]), func(a, b string) int {
			return cmp.Or(cmp.Compare(order[b], order[a]), cmp.Compare(a, b))
		})
		var segs []chart.Segment
		for _, ref := range refs {
			n, class := running[model][ref], cmp.Or(p[ref], "other")
			bar.Rows = append(bar.Rows, modelRow{class, ref, versionOf(ref), n, barred[ref]})
			segs = append(segs, chart.Segment{Class: class, Name: ref, N: n})
		}
		bar.Bar = chart.ShareBar(fmt.Sprintf("members by release of %s", model), len(members), segs)
		bars = append(bars, bar)
	}
	return bars
}

// versionOf is the version of a ref; a bare digest is shortened.
func versionOf(ref string) string {
	if _, v, ok := strings.Cut(ref, "@"); ok {
		return v
	}
	if len(ref) > 12 {
		return ref[:12]
	}
	return ref
}

// quiet reports whether a device has said nothing for too long. A function
// that nobody calls is frozen and may be quiet.
func (s *site) quiet(m api.MemberInfo) bool {
	return m.Facts.Kind != fleet.Function && s.Now().Sub(m.Seen) > s.Silent
}

// siteMap draws every member as a square, by site.
func siteMap(members []api.MemberInfo, p map[string]string, quiet func(api.MemberInfo) bool) ([]place, int) {
	by := map[string][]cellMark{}
	for i, m := range members {
		if i == mapLimit {
			break
		}
		by[siteOf(m)] = append(by[siteOf(m)], squareOf(m, p, quiet(m)))
	}
	sites := make([]place, 0, len(by))
	for _, name := range slices.Sorted(maps.Keys(by)) {
		sites = append(sites, place{name, by[name]})
	}
	return sites, max(0, len(members)-mapLimit)
}

func siteOf(m api.MemberInfo) string {
	if m.Facts.Kind == fleet.Function {
		return "functions"
	}
	return cmp.Or(m.Facts.Labels[fleet.LabelSite], "no site")
}

// squareOf is a member's square: coloured by the release it runs, marked when
// something is wrong or under way.
func squareOf(m api.MemberInfo, p map[string]string, quiet bool) cellMark {
	c := cellMark{ID: m.Facts.ID, Class: "idle", Title: string(m.Facts.ID)}
	for i, st := range m.Models {
		if i == 0 {
			c.Class = "idle"
			if st.Running != "" {
				c.Class = cmp.Or(p[st.Running], "other")
			}
		}
		c.Title += fmt.Sprintf("\n%s %s, %s", st.Model, cmp.Or(versionOf(st.Running), "nothing"), st.Phase)
		switch {
		case st.Phase == fleet.Failed || st.Phase == fleet.Quarantined || st.Phase == fleet.RolledBack || len(st.Quarantined) > 0:
			c.Class += " refused"
		case st.Phase.InProgress():
			c.Class += " moving"
		}
	}
	if quiet {
		c.Class += " quiet"
		c.Title += "\nsilent"
	}
	return c
}

// attentions are the members that need a person, worst first.
func (s *site) attentions(members []api.MemberInfo, releases []api.ReleaseInfo) []attention {
	var list []attention
	for _, m := range members {
		if a, ok := s.attentionOf(m, releases); ok {
			list = append(list, a)
		}
	}
	rank := map[string]int{"bad": 0, "warn": 1}
	slices.SortStableFunc(list, func(a, b attention) int { return cmp.Compare(rank[a.Tone], rank[b.Tone]) })
	return list
}

// trustText says how a member's trust stands and what to do; "" while it is fresh.
func trustText(m api.MemberInfo) string {
	f := strings.ToLower(m.Freshness)
	if f == "" || f == "fresh" {
		return ""
	}
	text := "its trust pack is " + f
	if m.Refused != "" {
		text += " (rule " + m.Refused + ")"
	}
	text += ": it holds what it has"
	if m.Remedy != "" {
		text += "; " + m.Remedy
	}
	return text
}

func (s *site) attentionOf(m api.MemberInfo, releases []api.ReleaseInfo) (attention, bool) {
	id := m.Facts.ID
	if m.Revoked {
		return attention{}, false // out of the fleet: nobody waits for it
	}
	if m.Locked != "" {
		return attention{id, "bad", "its identity is locked: " + m.Locked}, true
	}
	if f := strings.ToLower(m.Freshness); f != "" && f != "fresh" {
		return attention{id, tone(f), trustText(m)}, true
	}
	for _, st := range m.Models {
		switch {
		case st.Stuck() && st.Rate == 0:
			return attention{id, "warn", cmp.Or(st.Target, string(st.Model)) + ": " + st.StuckText(s.Now())}, true
		case st.Phase == fleet.Failed:
			what := fmt.Sprintf("%s failed: %s", cmp.Or(st.Target, string(st.Model)), cmp.Or(st.FailureCode, st.Failure.String(), "no reason given"))
			if st.Failure == fleet.ReleaseFailure {
				return attention{id, "bad", what}, true
			}
			return attention{id, "warn", what}, true
		case st.Phase == fleet.Quarantined || len(st.Quarantined) > 0:
			names := make([]string, 0, len(st.Quarantined))
			for _, d := range st.Quarantined {
				names = append(names, nameOf(d, releases))
			}
			return attention{id, "warn", "keeps in quarantine: " + cmp.Or(strings.Join(names, ", "), "a release of "+string(st.Model))}, true
		}
	}
	if h := harms(m.Delivery); len(h) > 0 {
		return attention{id, "warn", strings.Join(h, "; ")}, true
	}
	if s.quiet(m) {
		if m.Seen.IsZero() {
			return attention{id, "warn", "enrolled, and has never reported"}, true
		}
		return attention{id, "warn", "silent for " + chart.Duration(s.Now().Sub(m.Seen).Truncate(time.Second))}, true
	}
	return attention{}, false
}

// nameOf is the release that a digest belongs to, or the digest.
func nameOf(root fleet.Digest, releases []api.ReleaseInfo) string {
	for _, r := range releases {
		if r.Release.Has(root) {
			return r.Release.Ref()
		}
	}
	return root.Short()
}
