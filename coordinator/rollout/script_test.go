package rollout_test

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"go.yaml.in/yaml/v3"
)

// TestScripts plays testdata/*.txt. Commands:
//
//	spec                       the rollout's spec, YAML; begins a rollout by ann
//	members n=N [site=S] [ring=R] [late]   enrols members
//	set who=IDS|told|untold|all [phase=P] [failure=F] [runs=new|old] [silent] [heard] [quarantined]
//	verdict pass|fail|inconclusive [e=E] [stage=N] [suspicious]
//	say KIND by=NAME [as=(P,P)] [hold]  an operator's command; as: the identities it speaks for
//	older / newer [at=OFFSET]  another rollout of the model is there
//	decide [after=DURATION]    lets time pass, decides, and prints what was done
//	show                       prints the status and the directive's part
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *script
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			if td.Cmd == "spec" {
				s = newScript(t, td.Input)
				return s.show()
			}
			return s.run(t, td)
		})
	})
}

type script struct {
	day
}

func specOf(t *testing.T, text string) fleet.Spec {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := fleet.ParseSpec(b)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func newScript(t *testing.T, text string) *script {
	s := &script{day: day{spec: specOf(t, text), now: midnight}}
	var err error
	if s.st, err = rollout.New("r1", release("2.0"), s.spec, rollout.Approval{By: "ann"}, s.now); err != nil {
		t.Fatal(err)
	}
	return s
}

func arg(td *datadriven.TestData, key, otherwise string) string {
	for _, a := range td.CmdArgs {
		if a.Key == key {
			if len(a.Vals) == 0 {
				return "yes"
			}
			return a.Vals[0]
		}
	}
	return otherwise
}

func args(td *datadriven.TestData, key string) []string {
	for _, a := range td.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}

func (s *script) run(t *testing.T, td *datadriven.TestData) string {
	switch td.Cmd {
	case "members":
		n, _ := strconv.Atoi(arg(td, "n", "1"))
		for range n {
			s.add(td)
		}
	case "set":
		s.set(t, td)
	case "verdict":
		e, _ := strconv.ParseFloat(arg(td, "e", "1"), 64)
		stage, _ := strconv.Atoi(arg(td, "stage", strconv.Itoa(s.st.Stage)))
		s.verdict = &rollout.Verdict{Outcome: rollout.Outcome(td.CmdArgs[0].Key), Stage: stage, E: e, Reason: "the gates say so", Suspicious: arg(td, "suspicious", "") != ""}
	case "say":
		s.seq++
		s.script = append(s.script, rollout.Command{Seq: s.seq, Kind: rollout.CommandKind(td.CmdArgs[0].Key), By: arg(td, "by", "bob"), As: args(td, "as"), At: s.now, Hold: arg(td, "hold", "") != ""})
	case "newer":
		d, _ := time.ParseDuration(arg(td, "at", "1h"))
		s.newer = &rollout.Peer{ID: "r2", Created: midnight.Add(d)}
	case "decide":
		d, err := time.ParseDuration(arg(td, "after", "1s"))
		if err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(d)
		if s.verdict != nil {
			s.verdict.At = s.now
		}
		return printed(s.decide().actions)
	case "show":
		return s.show()
	default:
		t.Fatalf("no command %s", td.Cmd)
	}
	return ""
}

func (s *script) add(td *datadriven.TestData) {
	labels := fleet.Labels{"site": arg(td, "site", "a")}
	if ring := arg(td, "ring", ""); ring != "" {
		labels["ring"] = ring
	}
	at := midnight.Add(-time.Hour)
	if arg(td, "late", "") != "" {
		at = s.now
	}
	id := fmt.Sprintf("m%02d", len(s.members))
	s.members = append(s.members, member{
		facts: fleet.Facts{ID: fleet.MemberID(id), Labels: labels, Enrolled: at},
		seen:  rollout.Observation{Reachable: true, Running: digest("1.0")},
	})
	s.roster = nil
}

// set changes what is observed of some members.
func (s *script) set(t *testing.T, td *datadriven.TestData) {
	who := arg(td, "who", "all")
	told := exposed(s.spec, s.st, s.facts())
	isTold := map[fleet.MemberID]bool{}
	for _, id := range told {
		isTold[id] = true
	}
	left, _ := strconv.Atoi(arg(td, "first", "1000"))
	for i := range s.members {
		m := &s.members[i]
		id := m.facts.ID
		switch {
		case who == "told" && !isTold[id], who == "untold" && isTold[id], who != "told" && who != "untold" && who != "all" && who != string(id), left == 0:
			continue
		}
		left--
		o := &m.seen
		o.Rollout = s.st.ID
		if p := arg(td, "phase", ""); p != "" {
			if err := o.Phase.UnmarshalText([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		if f := arg(td, "failure", ""); f != "" {
			if err := o.Failure.UnmarshalText([]byte(f)); err != nil {
				t.Fatal(err)
			}
		}
		switch arg(td, "runs", "") {
		case "new":
			o.Running = digest("2.0")
		case "old":
			o.Running = digest("1.0")
		}
		o.Reachable = (o.Reachable || arg(td, "heard", "") != "") && arg(td, "silent", "") == ""
		o.Quarantined = o.Quarantined || arg(td, "quarantined", "") != ""
	}
}

func printed(actions []rollout.Action) string {
	var b strings.Builder
	for _, a := range actions {
		fmt.Fprintf(&b, "%s", a.Kind)
		if a.To != "" {
			fmt.Fprintf(&b, " %s -> %s", a.From, a.To)
		}
		if a.Members > 0 {
			fmt.Fprintf(&b, " %d members", a.Members)
		}
		fmt.Fprintf(&b, ": %s\n", a.Reason)
	}
	return b.String()
}

func (s *script) show() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v, stage %d\n", s.st.State, s.st.Stage)
	for _, st := range s.st.Stages {
		fmt.Fprintf(&b, "  %s %v told %d of %d\n", st.Name, st.State, st.Told, st.Target)
	}
	x := rollout.Exposure(s.spec, s.st)
	if x == nil {
		return b.String() + "directive: nothing of it\n"
	}
	for _, r := range x.Rules {
		fmt.Fprintf(&b, "directive: [%s] below %016x\n", r.Selector, uint64(r.Bound))
	}
	ids := exposed(s.spec, s.st, s.facts())
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	fmt.Fprintf(&b, "exposed: %v\n", ids)
	return b.String()
}
