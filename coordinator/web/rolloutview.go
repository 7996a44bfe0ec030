package web

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// rolloutCard is a rollout at a glance.
type rolloutCard struct {
	api.RolloutInfo
	Ref    string
	Stages []stageCard
	Live   bool
	Here   string // where a live one stands: its stage, and what the gates say of it
}

// stageCard is one stage of the track.
type stageCard struct {
	api.StageInfo
	N    int // from 1
	Bar  template.HTML
	Tone string
	Now  bool // the rollout is in this stage
}

func newCard(x api.RolloutInfo) rolloutCard {
	c := rolloutCard{RolloutInfo: x, Ref: x.Release.Ref(), Live: x.Ended.IsZero()}
	for i, st := range x.Stages {
		sc := stageCard{StageInfo: st, N: i + 1, Tone: tone(st.State), Now: c.Live && i == x.Stage}
		target := fmt.Sprintf("stage %s exposes %d of %d members", st.Name, st.Exposed, x.Population)
		segs := []chart.Segment{{Class: cmp.Or(sc.Tone, "calm"), Name: "exposed", N: st.Exposed}}
		if c.Live && st.Target > st.Exposed {
			segs = append(segs, chart.Segment{Class: "aim", Name: "to be exposed", N: st.Target - st.Exposed})
		}
		sc.Bar = chart.ShareBar(target, x.Population, segs)
		c.Stages = append(c.Stages, sc)
		if sc.Now {
			c.Here = "stage " + st.Name + " is " + words(st.State)
			if st.Verdict != nil {
				c.Here += "; " + st.Verdict.Reason
			}
		}
	}
	return c
}

func (s *site) rolloutsPage(r *http.Request, who visitor) (view, error) {
	all, err := s.Source.Rollouts(r.Context(), who.OperatorToken)
	if err != nil {
		return view{}, err
	}
	var v struct{ Live, Ended []rolloutCard }
	for _, x := range all {
		if c := newCard(x); c.Live {
			v.Live = append(v.Live, c)
		} else {
			v.Ended = append(v.Ended, c)
		}
	}
	return view{page: "rollouts", title: "Rollouts", nav: "rollouts", data: v}, nil
}

// rolloutView is one rollout with its evidence.
type rolloutView struct {
	rolloutCard
	Soak       []soak
	Fetch      []fetchView
	StuckLines []string // who cannot bring it in, and why
	Charts     []figure
	Compare    []comparison
	Verdict    *api.VerdictInfo
	Judged     string // the stage the verdict is about
	Log        []api.AuditEntry
	Took       time.Duration
	Members    []place
	Actions    []action
}

// soak says how far the current stage has soaked.
type soak struct {
	Of, Done time.Duration
	Bar      template.HTML
}

// figure is a chart with its key.
type figure struct {
	Title string
	Plot  template.HTML
	Keys  []key
	Empty string
}

type key struct{ Class, Name, Value string }

// comparison is a line of the exposed-against-control table.
type comparison struct {
	What, Exposed, Control string
	Worse                  bool
}

// action is a button.
type action struct {
	Command api.Command
	Label   string
	What    string
	Grave   bool
}

func (s *site) rolloutPage(r *http.Request, who visitor) (view, error) {
	id, err := fleet.ParseRolloutID(r.PathValue("id"))
	if err != nil {
		return view{}, err
	}
	ctx := r.Context()
	x, err := s.Source.Rollout(ctx, who.OperatorToken, id)
	if err != nil {
		return view{}, err
	}
	v := rolloutView{rolloutCard: newCard(x), Compare: compare(x), Charts: charts(x), Actions: actions(x, who)}
	v.Fetch = fetchingOf(x.Fetching)
	for _, k := range x.Stuck {
		v.StuckLines = append(v.StuckLines, k.Text(s.Now()))
	}
	v.Took = s.Now().Sub(x.Started)
	if !v.Live {
		v.Took = x.Ended.Sub(x.Started)
	}
	v.Verdict, v.Judged = newestVerdict(x)
	if st := x.Stages; v.Live && x.Stage < len(st) && st[x.Stage].State == "Soaking" {
		done := min(s.Now().Sub(st[x.Stage].Since), st[x.Stage].Soak.D())
		v.Soak = []soak{{st[x.Stage].Soak.D(), done, chart.ShareBar("soaked", int(st[x.Stage].Soak.D()/time.Millisecond), []chart.Segment{{Class: "busy", Name: "soaked", N: int(done / time.Millisecond)}})}}
	}
	members, err := s.Source.Members(ctx, who.OperatorToken, fleet.Selector{})
	if err != nil {
		return view{}, err
	}
	v.Members = participants(members, x)
	if v.Log, err = s.logOf(ctx, who, string(id)); err != nil {
		return view{}, err
	}
	return view{page: "rollout", title: v.Ref, nav: "rollouts", data: v}, nil
}

// newestVerdict is the verdict of the latest stage that has one.
func newestVerdict(x api.RolloutInfo) (*api.VerdictInfo, string) {
	for _, st := range slices.Backward(x.Stages) {
		if st.Verdict != nil {
			return st.Verdict, st.Name
		}
	}
	return nil, ""
}

// participants draws the members the rollout concerns, exposed ones first.
func participants(members []api.MemberInfo, x api.RolloutInfo) []place {
	exposed, control := place{Name: "exposed"}, place{Name: "control"}
	for _, m := range members {
		i := slices.IndexFunc(m.Models, func(st api.ModelStatus) bool { return st.Model == x.Release.Model && st.Rollout == x.ID })
		if i < 0 {
			continue
		}
		st := m.Models[i]
		c := cellMark{ID: m.Facts.ID, Title: fmt.Sprintf("%s\n%s, %s", m.Facts.ID, cmp.Or(st.Running, "nothing"), st.Phase)}
		switch {
		case st.Phase == fleet.Failed || st.Phase == fleet.Quarantined || st.Phase == fleet.RolledBack:
			c.Class = "failed"
		case st.Arm == fleet.Exposed.String() && st.Phase.InProgress():
			c.Class = "exposed moving"
		case st.Arm == fleet.Exposed.String():
			c.Class = "exposed"
		default:
			c.Class = "control"
		}
		if st.Arm == fleet.Exposed.String() {
			exposed.Cells = append(exposed.Cells, c)
		} else {
			control.Cells = append(control.Cells, c)
		}
	}
	var groups []place
	for _, g := range []place{exposed, control} {
		if n := len(g.Cells); n > 0 {
			g.Cells = g.Cells[:min(n, mapLimit)]
			groups = append(groups, g)
		}
	}
	return groups
}

// compare sets the arms side by side.
func compare(x api.RolloutInfo) []comparison {
	e, c := x.Exposed, x.Control
	share := func(what string, a, b float64, moreIsWorse bool) comparison {
		worse := !math.IsNaN(a) && !math.IsNaN(b) && a != b && (a > b) == moreIsWorse
		return comparison{what, percent(a), percent(b), worse}
	}
	text := func(d fleet.Duration) string {
		if d == 0 {
			return "–" // nothing was measured
		}
		return latency(d)
	}
	quantile := func(what string, a, b fleet.Duration) comparison {
		return comparison{what, text(a), text(b), b > 0 && a > b+b/10}
	}
	return []comparison{
		{What: "members reporting", Exposed: fmt.Sprintf("%d of %d", e.Seen, e.Members), Control: fmt.Sprintf("%d of %d", c.Seen, c.Members)},
		{"members it failed on", fmt.Sprint(e.Fatal), fmt.Sprint(c.Fatal), e.Fatal > c.Fatal},
		{What: "requests", Exposed: count(e.Requests), Control: count(c.Requests)},
		share("errors", ratio(e.Errors, e.Requests), ratio(c.Errors, c.Requests), true),
		share("right, where labelled", ratio(e.Right, e.Right+e.Wrong), ratio(c.Right, c.Right+c.Wrong), false),
		quantile("latency p50", e.P50, c.P50), quantile("latency p95", e.P95, c.P95), quantile("latency p99", e.P99, c.P99),
	}
}

// actions are the commands that make sense now, for this visitor.
func actions(x api.RolloutInfo, who visitor) []action {
	if !x.Ended.IsZero() || !who.May(string(api.Operator)) {
		return nil
	}
	var list []action
	switch x.State {
	case "Paused":
		list = append(list, action{api.Resume, "Resume", "go on; the stage soaks anew", false})
	case "AwaitingApproval":
		if who.May(string(api.Approver)) {
			list = append(list, action{api.Approve, "Approve", "let the next stage begin", false})
		}
	case "RollingBack":
		return nil
	}
	if x.State == "Running" || x.State == "AwaitingApproval" {
		list = append(list, action{api.Pause, "Pause", "expose nobody new; a failing gate still rolls back", false})
	}
	return append(list,
		action{api.Abort, "Abort", "withdraw members that have not switched", true},
		action{api.Rollback, "Roll back", "also return those that have switched", true})
}

// command does what a button says.
func (s *site) command(r *http.Request, who visitor) (view, error) {
	id, err := fleet.ParseRolloutID(r.PathValue("id"))
	if err != nil {
		return view{}, err
	}
	cmd := api.Command(r.PathValue("command"))
	req := api.CommandRequest{Reason: r.PostFormValue("reason")}
	if err := s.Source.Command(r.Context(), who.OperatorToken, id, cmd, req); err != nil {
		return view{}, err
	}
	return view{redirect: "/rollouts/" + string(id)}, nil
}
