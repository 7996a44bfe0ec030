package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// memberRow is a line of the members' table, one per member and model.
type memberRow struct {
	Info   api.MemberInfo
	Model  api.ModelStatus
	Has    bool // it runs, or should run, a model at all
	Quiet  bool
	Class  string
	Labels []string
	Fetch  []fetchView
	Stuck  string // "cannot fetch", instead of the phase
}

// membersView is the members' table.
type membersView struct {
	Pending  []api.PendingMember // members that wait for approval
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

func (s *site) membersPage(r *http.Request, who visitor) (view, error) {
	v := membersView{Selector: r.FormValue("selector"), Show: r.FormValue("show")}
	sel, err := fleet.ParseSelector(v.Selector)
	if err != nil {
		v.Problem = err.Error()
	}
	members, err := s.Source.Members(r.Context(), who.OperatorToken, sel)
	if err != nil {
		return view{}, err
	}
	releases, err := s.Source.Releases(r.Context(), who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	waiting, err := s.Source.Pending(r.Context(), who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	v.Pending = slices.DeleteFunc(waiting, func(p api.PendingMember) bool { return p.State != api.Waiting })
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
			row.Fetch, row.Stuck = fetchOf(st), stuckWord(st)
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
	Trust  string // how its trust stands and what to do; "" while it is fresh
	Quiet  bool
	Harms  []string
}

type label struct{ Key, Value string }

type memberModel struct {
	api.ModelStatus
	AsItShould bool
	ErrorRate  string
	Accuracy   string
	P50, P95   string
	Fetch      []fetchView
	Trouble    string // why it cannot, when that is not the release's fault
	Refuses    []refused
}

// refused is a release in a member's quarantine.
type refused struct {
	Name   string
	Digest fleet.Digest
}

func (s *site) memberPage(r *http.Request, who visitor) (view, error) {
	id, err := fleet.ParseMemberID(r.PathValue("id"))
	if err != nil {
		return view{}, err
	}
	why, err := s.Source.Explain(r.Context(), who.OperatorToken, id)
	if err != nil {
		return view{}, err
	}
	releases, err := s.Source.Releases(r.Context(), who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	v := memberView{Info: why.Member, Trust: trustText(why.Member), Lines: why.Lines, Quiet: s.quiet(why.Member), Harms: harms(why.Member.Delivery)}
	for _, k := range slices.Sorted(maps.Keys(why.Member.Facts.Labels)) {
		v.Labels = append(v.Labels, label{k, why.Member.Facts.Labels[k]})
	}
	for _, st := range why.Member.Models {
		m := memberModel{
			ModelStatus: st, AsItShould: st.Running == st.Target,
			ErrorRate: percent(ratio(st.Errors, st.Requests)),
			Accuracy:  percent(ratio(st.Right, st.Right+st.Wrong)),
			P50:       latency(st.P50), P95: latency(st.P95),
			Fetch: fetchOf(st), Trouble: stuckOf(st, s.Now()),
		}
		for _, d := range st.Quarantined {
			m.Refuses = append(m.Refuses, refused{nameOf(d, releases), d})
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
