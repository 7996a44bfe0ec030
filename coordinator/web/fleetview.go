package web

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// fleetView is the first page: is everything as it should be, and what moves?
type fleetView struct {
	Info      api.FleetInfo
	Total     int
	PackFresh bool
	UnderWay  []rolloutCard
	Models    []modelBar
	Sites     []site1
	Hidden    int // members the map leaves out
	Attention []attention
	MoreTrys  int // attentions left out
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
	Revoked             bool
}

// site1 is one LAN of the map.
type site1 struct {
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

func (s *site) fleetPage(r *http.Request, _ visitor) (view, error) {
	ctx := r.Context()
	info, err := s.Source.Fleet(ctx)
	if err != nil {
		return view{}, err
	}
	all, err := s.Source.Members(ctx, fleet.Selector{})
	if err != nil {
		return view{}, err
	}
	members := s.present(all)
	rollouts, err := s.Source.Rollouts(ctx)
	if err != nil {
		return view{}, err
	}
	releases, err := s.Source.Releases(ctx)
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
		v.Attention, v.MoreTrys = v.Attention[:8], n-8
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

// palette gives each release a colour class that stays its own: by counter, so
// that neighbours in time differ.
func palette(releases []api.ReleaseInfo) map[string]string {
	p := map[string]string{}
	for _, r := range releases {
		p[r.Release.Ref()] = fmt.Sprintf("c%d", r.Release.Counter%6)
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
	order, revoked := map[string]uint64{}, map[string]bool{}
	for _, r := range releases {
		order[r.Release.Ref()], revoked[r.Release.Ref()] = r.Release.Counter, r.Revoked
	}
	var bars []modelBar
	for _, model := range slices.Sorted(maps.Keys(running)) {
		bar := modelBar{Model: model, None: running[model][""]}
		delete(running[model], "")
		refs := slices.SortedFunc(maps.Keys(running[model]), func(a, b string) int {
			return cmp.Or(cmp.Compare(order[b], order[a]), cmp.Compare(a, b))
		})
		var segs []segment
		for _, ref := range refs {
			n, class := running[model][ref], cmp.Or(p[ref], "other")
			bar.Rows = append(bar.Rows, modelRow{class, ref, versionOf(ref), n, revoked[ref]})
			segs = append(segs, segment{class, ref, n})
		}
		bar.Bar = shareBar(fmt.Sprintf("members by release of %s", model), len(members), segs)
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
func siteMap(members []api.MemberInfo, p map[string]string, quiet func(api.MemberInfo) bool) ([]site1, int) {
	by := map[string][]cellMark{}
	for i, m := range members {
		if i == mapLimit {
			break
		}
		by[siteOf(m)] = append(by[siteOf(m)], squareOf(m, p, quiet(m)))
	}
	sites := make([]site1, 0, len(by))
	for _, name := range slices.Sorted(maps.Keys(by)) {
		sites = append(sites, site1{name, by[name]})
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

func (s *site) attentionOf(m api.MemberInfo, releases []api.ReleaseInfo) (attention, bool) {
	id := m.Facts.ID
	if m.Revoked {
		return attention{}, false // out of the fleet: nobody waits for it
	}
	if f := strings.ToLower(m.Freshness); f != "" && f != "fresh" {
		return attention{id, tone(f), "its trust pack is " + f + ": it holds what it has"}, true
	}
	for _, st := range m.Models {
		switch {
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
	if s.quiet(m) {
		if m.Seen.IsZero() {
			return attention{id, "warn", "enrolled, and has never reported"}, true
		}
		return attention{id, "warn", "silent for " + shortDuration(s.Now().Sub(m.Seen).Truncate(time.Second))}, true
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

// memberRow is a line of the members' table, one per member and model.
type memberRow struct {
	Info   api.MemberInfo
	Model  api.ModelStatus
	Has    bool // it runs, or should run, a model at all
	Quiet  bool
	Class  string
	Labels []string
}

// membersView is the members' table.
type membersView struct {
	Rows     []memberRow
	Selector string
	Problem  string
	Show     string // "attention", or all
	Total    int
	From, To int
	Prev     string
	Next     string
}

const membersPerPage = 100

func (s *site) membersPage(r *http.Request, _ visitor) (view, error) {
	v := membersView{Selector: r.FormValue("selector"), Show: r.FormValue("show")}
	sel, err := fleet.ParseSelector(v.Selector)
	if err != nil {
		v.Problem = err.Error()
	}
	members, err := s.Source.Members(r.Context(), sel)
	if err != nil {
		return view{}, err
	}
	releases, err := s.Source.Releases(r.Context())
	if err != nil {
		return view{}, err
	}
	if v.Show == "attention" {
		members = slices.DeleteFunc(slices.Clone(members), func(m api.MemberInfo) bool {
			_, wants := s.attentionOf(m, releases)
			return !wants
		})
	}
	var at int
	fmt.Sscan(r.FormValue("from"), &at) // a wrong number begins at the start
	at = max(0, min(at, len(members)-1))
	end := min(at+membersPerPage, len(members))
	v.Total, v.From, v.To = len(members), at+1, end
	link := func(from int) string {
		return "/members?" + url.Values{"selector": {v.Selector}, "show": {v.Show}, "from": {fmt.Sprint(from)}}.Encode()
	}
	if at > 0 {
		v.Prev = link(max(0, at-membersPerPage))
	}
	if end < len(members) {
		v.Next = link(end)
	}
	p := palette(releases)
	for _, m := range members[at:end] {
		row := memberRow{Info: m, Quiet: s.quiet(m)}
		for _, k := range slices.Sorted(maps.Keys(m.Facts.Labels)) {
			row.Labels = append(row.Labels, k+"="+m.Facts.Labels[k])
		}
		if len(m.Models) == 0 {
			v.Rows = append(v.Rows, row)
		}
		for _, st := range m.Models {
			row.Model, row.Has, row.Class = st, true, cmp.Or(p[st.Running], "other")
			v.Rows = append(v.Rows, row)
		}
	}
	return view{page: "members", title: "Members", nav: "members", data: v}, nil
}

// memberView is one member: what it runs, what it should, and why.
type memberView struct {
	Info   api.MemberInfo
	Lines  []string
	Labels []label
	Models []memberModel
	Quiet  bool
}

type label struct{ Key, Value string }

type memberModel struct {
	api.ModelStatus
	AsItShould bool
	ErrorRate  string
	Accuracy   string
	P50, P95   string
	Progress   template.HTML
	Refuses    []refused
}

// refused is a release in a member's quarantine.
type refused struct {
	Name   string
	Digest fleet.Digest
}

func (s *site) memberPage(r *http.Request, _ visitor) (view, error) {
	id, err := fleet.ParseMemberID(r.PathValue("id"))
	if err != nil {
		return view{}, err
	}
	why, err := s.Source.Explain(r.Context(), id)
	if err != nil {
		return view{}, err
	}
	releases, err := s.Source.Releases(r.Context())
	if err != nil {
		return view{}, err
	}
	v := memberView{Info: why.Member, Lines: why.Lines, Quiet: s.quiet(why.Member)}
	for _, k := range slices.Sorted(maps.Keys(why.Member.Facts.Labels)) {
		v.Labels = append(v.Labels, label{k, why.Member.Facts.Labels[k]})
	}
	for _, st := range why.Member.Models {
		m := memberModel{
			ModelStatus: st, AsItShould: st.Running == st.Target,
			ErrorRate: percent(ratio(st.Errors, st.Requests)),
			Accuracy:  percent(ratio(st.Right, st.Right+st.Wrong)),
			P50:       latency(st.P50), P95: latency(st.P95),
		}
		for _, d := range st.Quarantined {
			m.Refuses = append(m.Refuses, refused{nameOf(d, releases), d})
		}
		if st.BytesTotal > 0 && st.Phase == fleet.Downloading {
			m.Progress = shareBar("downloaded", int(st.BytesTotal), []segment{{"busy", "downloaded", int(st.BytesDone)}})
		}
		v.Models = append(v.Models, m)
	}
	return view{page: "member", title: string(id), nav: "members", data: v}, nil
}

func latency(d fleet.Duration) string {
	if d == 0 {
		return "–"
	}
	return millis(d.D().Seconds())
}
