package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/policy"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const whole = `# a policy with everything in it
population: {selector: "region in (eu, us), class != lab"}
stages:
  - {name: lab, selector: "ring=lab", soak: 10m, approval: none}
  - {name: one, percent: 1, soak: 30m}
  - name: ten
    percent: 10
    soak: 2h
    budget: {inProgress: 200, perLabel: {site: 1}}
  - {name: all, percent: 100, soak: 6h, control: 5, approval: 1}
gates:
  - {gate: fatal}
  - {gate: errors, tolerate: 5%}
  - {gate: latency, at: [p95, p99], tolerate: 10%}
  - {gate: drift, floor: 0.02}
  - {gate: breaker, failures: 3, of: 5}
  - {gate: metric, name: missed_defects, direction: up, tolerate: 10%}
alpha: 1%
stageDeadline: 24h
onInconclusive: hold
onFail: rollback
windows: [{from: 02:00, to: 05:30, days: [mon, tue]}]
`

func TestAWholePolicy(t *testing.T) {
	spec, text, err := policy.Parse("policy.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Stages) != 4 || spec.Stages[2].Budget.PerLabel["site"] != 1 || spec.Stages[3].Approval != 1 || spec.Stages[0].Soak.D() != 10*time.Minute {
		t.Errorf("stages %+v", spec.Stages)
	}
	if len(spec.Gates) != 6 || spec.Gates[1].Tolerate != 5 || spec.Alpha != 1 || spec.Windows[0].To != 5*60+30 {
		t.Errorf("gates %+v alpha %v windows %+v", spec.Gates, spec.Alpha, spec.Windows)
	}
	again, err := fleet.ParseSpec(text)
	if err != nil || len(again.Gates) != 6 {
		t.Errorf("the JSON that goes on does not parse: %v\n%s", err, text)
	}
}

// Each mistake is found, on its line, in words for whoever made it.
func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		line int
		says string
	}{
		"a typo":                    {"stages:\n  - {name: a, percnt: 10, soak: 1m}\n", 2, `there is no setting "percnt" here; did you mean "percent"?`},
		"a typo at the top":         {"alhpa: 1\nstages: [{name: a, percent: 1}]\n", 1, `no setting "alhpa" here; did you mean "alpha"?`},
		"another case":              {"stages: [{name: a, percent: 1}]\nonfail: pause\n", 2, `did you mean "onFail"?`},
		"a name of another place":   {"stages:\n  - name: a\n    percent: 1\nname: b\n", 4, `no setting "name" here`},
		"a word like no other":      {"stages: []\nfrobnicate: 1\n", 2, `no setting "frobnicate" here`},
		"percent 120":               {"stages:\n  - {name: a, percent: 10}\n  - {name: b, percent: 120}\n", 3, "not between 0 and 100"},
		"stages out of order":       {"stages:\n  - {name: a, percent: 50}\n  - {name: b, percent: 10}\n", 3, "goes down from 50 to 10"},
		"a stage without a name":    {"stages:\n\n  - {percent: 50}\n", 3, "it has no name"},
		"an unknown gate":           {"stages: [{name: a, percent: 1}]\ngates:\n  - {gate: fatal}\n  - {gate: vibes}\n", 4, "there is no such gate"},
		"a bad selector":            {"stages:\n  - name: a\n    selector: \"ring=(\"\n", 3, "not a label value"},
		"a bad duration":            {"stages:\n  - name: a\n    percent: 1\n    soak: soon\n", 4, "not a duration"},
		"a word for a number":       {"stages:\n  - {name: a, count: 3}\n  - name: b\n    count: many\n", 4, "want a number, got string many"},
		"a word for a list":         {"stages: all\n", 1, "want a list, got string all"},
		"a word for a mapping":      {"stages:\n  - all\n", 2, "want a mapping of names to values, got string all"},
		"a budget of words":         {"stages:\n  - name: a\n    budget:\n      perLabel:\n        site: one\n", 5, "want a number, got string one"},
		"a day":                     {"stages: [{name: a, percent: 100}]\nwindows:\n  - {from: 02:00, to: 05:00}\n  - {from: 02:00, to: 05:00, days: [monday]}\n", 4, "none of sun, mon, tue"},
		"a time of day":             {"stages: [{name: a, percent: 100}]\nwindows:\n  - from: 02:00\n    to: 25:00\n", 4, "not a time of day"},
		"no stages":                 {"alpha: 1\n", 1, "there are none"},
		"the last stage is not all": {"stages:\n  - {name: a, percent: 1}\n  - {name: b, percent: 50}\n", 3, "the last stage does not expose the whole population"},
		"a bad choice":              {"stages: [{name: a, percent: 1}]\nonFail: cry\n", 2, "none of rollback, pause"},
		"a name given twice":        {"alpha: 1\nalpha: 2\n", 2, "alpha is given twice"},
		"an anchor":                 {"stages: &s [{name: a, percent: 1}]\n", 1, "anchors"},
		"an alias that eats itself": {"a: &a [*a]\n", 1, "anchors"},
		"a merge":                   {"<<: {alpha: 1}\n", 1, "no name"},
		"two documents":             {"alpha: 1\n---\nalpha: 2\n", 2, "a second document begins"},
		"nothing":                   {"", 1, "empty"},
		"a list":                    {"- a\n", 1, "no mapping"},
		"no YAML":                   {"alpha: 1\nstages: [\n", 2, "did not find expected node content"},
		"a tag":                     {"alpha: !!binary aGk=\n", 1, "tag"},
		"infinity":                  {"stages: []\nalpha: .inf\n", 2, "is no number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := policy.Parse("p.yaml", []byte(c.text))
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v", err)
			}
			if at := fmt.Sprintf("read policy p.yaml:%d: ", c.line); !strings.HasPrefix(err.Error(), at) || strings.Contains(err.Error(), ": :") || !strings.Contains(err.Error(), c.says) || fault.Hint(err) == "" {
				t.Errorf("got %q (hint %q), want %q and %q", err, fault.Hint(err), at, c.says)
			}
		})
	}
}

// Whatever the bytes: no panic, and what parses is a spec the coordinator takes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("stages: [{name: a, percent: 1}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("stages:\n  - {name: a, percent: 120}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, text, err := policy.Parse("p.yaml", data)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("error of kind %v: %v", fault.KindOf(err), err)
			}
			return
		}
		if _, err := fleet.ParseSpec(text); err != nil {
			t.Errorf("the JSON does not parse again: %v\n%s", err, text)
		}
	})
}
