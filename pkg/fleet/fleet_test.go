package fleet_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/strict"
)

func TestNamesAreSafePathElements(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "detector", "cam-7.north", "x_1"} {
		if _, err := fleet.ParseMemberID(good); err != nil {
			t.Errorf("%q refused: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a..b", "-a", "a-", "A", "a/b", "a b", "a\x00", strings.Repeat("a", 64)} {
		_, err := fleet.ParseMemberID(bad)
		if !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
			t.Errorf("%q: got %v, want an Invalid error with a hint", bad, err)
		}
	}
	if _, err := fleet.ParseVersion("1.5.0-rc.1+build7"); err != nil {
		t.Error(err)
	}
}

func TestParseRef(t *testing.T) {
	t.Parallel()
	m, v, err := fleet.ParseRef("detector@1.5.0")
	if m != "detector" || v != "1.5.0" || err != nil {
		t.Errorf("got %q %q %v", m, v, err)
	}
	for _, bad := range []string{"detector", "@1", "detector@", "a@b@c", "../x@1"} {
		if _, _, err := fleet.ParseRef(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want Invalid", bad, err)
		}
	}
}

func TestSelectorMatches(t *testing.T) {
	t.Parallel()
	eu := fleet.Facts{ID: "cam-1", Kind: fleet.Device, Labels: fleet.Labels{"region": "eu", "class": "jetson", "camera": "yes"}}
	for text, want := range map[string]bool{
		"":                                true,
		"region=eu":                       true,
		"region==eu":                      true,
		"region=us":                       false,
		"region!=us":                      true,
		"ring!=lab":                       true, // absent counts as something else
		"region in (us, eu)":              true,
		"region in (us), class=jetson":    false,
		"class notin (rpi, nano)":         true,
		"camera":                          true,
		"!camera":                         false,
		"!ring":                           true,
		"id=cam-1, kind=device":           true,
		"kind=function":                   false,
		"region in (eu,us), class != lab": true,
	} {
		s, err := fleet.ParseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := s.Matches(eu); got != want {
			t.Errorf("%q matches = %v, want %v", text, got, want)
		}
	}
	for _, bad := range []string{"=eu", "region=", "region in ()", "region in (a", "a b", "region=a;b", ",", "region=eu,"} {
		if _, err := fleet.ParseSelector(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want Invalid", bad, err)
		}
	}
}

func FuzzSelectorTextRoundTrips(f *testing.F) {
	for _, s := range []string{"", "a=b", "a in (b, c), !d", "x!=y,z", "a notin (q)", "a==b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := fleet.ParseSelector(text)
		if err != nil {
			return
		}
		again, err := fleet.ParseSelector(s.String())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, s, err)
		}
		if again.String() != s.String() {
			t.Fatalf("%q became %q, then %q", text, s, again)
		}
	})
}

func TestPositionsSpreadAndAreSalted(t *testing.T) {
	t.Parallel()
	const n = 4000
	half, moved := 0, 0
	for i := range n {
		id := fleet.MemberID(fmt.Sprintf("m-%d", i))
		a, b := fleet.Position("r1", id), fleet.Position("r2", id)
		if a < math.MaxUint64/2 {
			half++
		}
		if (a < math.MaxUint64/2) != (b < math.MaxUint64/2) {
			moved++
		}
		if !fleet.Everyone.Covers(a) || fleet.Nobody.Covers(a) {
			t.Fatal("Everyone must cover all and Nobody none")
		}
	}
	// 4000 fair coins: six standard deviations are 190.
	for what, got := range map[string]int{"below the middle": half, "on the other side in another rollout": moved} {
		if got < n/2-190 || got > n/2+190 {
			t.Errorf("%d of %d members are %s", got, n, what)
		}
	}
}

func TestBoundText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := fleet.Bound(rapid.Uint64().Draw(t, "bound"))
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var back fleet.Bound
		if err := json.Unmarshal(data, &back); err != nil || back != b {
			t.Fatalf("%s: got %v, %v", data, back, err)
		}
	})
}

func release(version string, classes ...string) fleet.Release {
	r := fleet.Release{Team: "vision", Model: "detector", Version: fleet.Version(version)}
	for _, c := range append([]string{""}, classes...) {
		v := fleet.Variant{Name: "v" + c, Root: fleet.DigestOf([]byte(version + c))}
		if c != "" {
			v.Classes = []string{c}
		}
		r.Variants = append(r.Variants, v)
	}
	return r
}

func TestAssign(t *testing.T) {
	t.Parallel()
	v1, v2 := release("1"), release("2", "jetson")
	asOf := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	all, _ := fleet.ParseSelector("")
	notLab, _ := fleet.ParseSelector("ring!=lab")
	p := fleet.Placement{Model: "detector", Stable: &v1, Rollout: &fleet.Exposure{
		ID: "r1", Release: v2, Population: notLab, AsOf: asOf,
		Rules: []fleet.Rule{{Selector: all, Bound: fleet.Everyone}},
	}}
	member := func(labels fleet.Labels, enrolled time.Time) fleet.Facts {
		return fleet.Facts{ID: "cam-1", Kind: fleet.Device, Labels: labels, Enrolled: enrolled}
	}

	a := p.Assign(member(fleet.Labels{"class": "jetson"}, asOf))
	if a.Arm != fleet.Exposed || a.Release.Version != "2" || a.Variant.Name != "vjetson" || a.Fallback.Version != "1" || a.FallbackVariant.Name != "v" {
		t.Errorf("exposed member got %+v", a)
	}
	if a := p.Assign(member(nil, asOf.Add(time.Second))); a.Arm != fleet.NoArm || a.Release.Version != "1" {
		t.Errorf("late joiner got %+v", a)
	}
	if a := p.Assign(member(fleet.Labels{"ring": "lab"}, asOf)); a.Arm != fleet.NoArm || a.Release.Version != "1" {
		t.Errorf("member outside the population got %+v", a)
	}
	p.Rollout.Rules[0].Bound = fleet.Nobody
	if a := p.Assign(member(nil, asOf)); a.Arm != fleet.Control || a.Release.Version != "1" || a.Rollout != "r1" {
		t.Errorf("control member got %+v", a)
	}
	p.Rollout = nil
	if a := p.Assign(member(nil, asOf)); a.Arm != fleet.NoArm || a.Release.Version != "1" || a.Rollout != "" {
		t.Errorf("member without a rollout got %+v", a)
	}
	p.Stable = nil
	if a := p.Assign(member(nil, asOf)); a.Release != nil || a.Reason == "" {
		t.Errorf("member without anything got %+v", a)
	}
}

func TestVariantForClass(t *testing.T) {
	t.Parallel()
	only := fleet.Release{Variants: []fleet.Variant{{Name: "nano", Classes: []string{"nano"}}}}
	if _, ok := only.For(fleet.Facts{Labels: fleet.Labels{"class": "rpi"}}); ok {
		t.Error("a variant for nano fits rpi")
	}
	if v, ok := only.For(fleet.Facts{Labels: fleet.Labels{"class": "nano"}}); !ok || v.Name != "nano" {
		t.Error("a variant for nano does not fit nano")
	}
}

func TestDirectiveJSONIsStable(t *testing.T) {
	t.Parallel()
	v1, v2 := release("1"), release("2")
	sel, _ := fleet.ParseSelector("region in (eu, us)")
	d := fleet.Directive{Schema: 1, Group: "default", Sequence: 7, Issued: time.Unix(1, 0).UTC(), Models: []fleet.Placement{{
		Model: "detector", Stable: &v1, Rollout: &fleet.Exposure{ID: "r1", Release: v2, Population: sel,
			Rules: []fleet.Rule{{Selector: sel, Bound: 42}}, AsOf: time.Unix(2, 0).UTC(), Soak: fleet.Duration(time.Minute)},
	}}}
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var back fleet.Directive
	if err := strict.Decode(data, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil || string(again) != string(data) {
		t.Errorf("the bytes changed (%v):\n%s\n%s", err, data, again)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	var ws []fleet.Window
	if err := json.Unmarshal([]byte(`[{"from":"22:00","to":"04:00","days":["fri"]}]`), &ws); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"2026-11-27 21:59": false, // Friday
		"2026-11-27 22:00": true,
		"2026-11-28 03:59": true, // Saturday morning belongs to Friday's window
		"2026-11-28 04:00": false,
		"2026-11-28 23:00": false,
	} {
		at, _ := time.Parse("2006-01-02 15:04", text)
		if got := fleet.InWindow(ws, at); got != want {
			t.Errorf("%s: open = %v, want %v", text, got, want)
		}
	}
	if !fleet.InWindow(nil, time.Time{}) {
		t.Error("no windows must be always open")
	}
}

func TestParseSpec(t *testing.T) {
	t.Parallel()
	s, err := fleet.ParseSpec([]byte(`{"population":{"selector":"region in (eu, us)"},
		"stages":[{"name":"lab","selector":"ring=lab","soak":"10m","approval":"none"},
			{"name":"ten","percent":10,"soak":"2h","budget":{"inProgress":200,"perLabel":{"site":1}}},
			{"name":"all","percent":"100%","soak":"6h","control":5,"approval":1}],
		"gates":[{"gate":"errors","tolerate":"5%"},{"gate":"breaker","failures":3,"of":5}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Alpha != 1 || s.OnFail != fleet.RollbackOnFail || s.OnInconclusive != fleet.HoldInconclusive || s.MemberSoak.D() != 5*time.Minute {
		t.Errorf("defaults are missing: %+v", s)
	}
	if got := s.Stages[1].Budget; !cmp.Equal(got, fleet.Budget{InProgress: 200, PerLabel: map[string]int{"site": 1}}) {
		t.Errorf("budget %+v", got)
	}
}

func TestParseSpecRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ spec, want string }{
		"typo":           {`{"stages":[{"name":"a","percnt":10,"soak":"1m"}]}`, "percnt"},
		"no stages":      {`{}`, "stages"},
		"both":           {`{"stages":[{"name":"a","percent":1,"count":1,"soak":"1m"}]}`, "both percent and count"},
		"neither":        {`{"stages":[{"name":"a","soak":"1m"}]}`, "neither"},
		"shrinks":        {`{"stages":[{"name":"a","percent":50,"soak":"1m"},{"name":"b","percent":10,"soak":"1m"}]}`, "goes down"},
		"twice":          {`{"stages":[{"name":"a","percent":5,"soak":"1m"},{"name":"a","percent":10,"soak":"1m"}]}`, "taken"},
		"gate":           {`{"stages":[{"name":"a","percent":100,"soak":"1m"}],"gates":[{"gate":"eror"}]}`, "eror"},
		"percentage":     {`{"stages":[{"name":"a","percent":101,"soak":"1m"}]}`, "not between"},
		"duration":       {`{"stages":[{"name":"a","percent":1,"soak":"tomorrow"}]}`, "duration"},
		"trailing bytes": {`{"stages":[{"name":"a","percent":1,"soak":"1m"}]} {}`, "after the end"},
		"selector":       {`{"stages":[{"name":"a","selector":"ring=","soak":"1m"}]}`, "selector"},
		"ends early":     {`{"stages":[{"name":"a","percent":10,"soak":"1m"}]}`, "whole population"},
	} {
		_, err := fleet.ParseSpec([]byte(tc.spec))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an Invalid error about %q", name, err, tc.want)
		}
	}
}

func TestPresetsAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"cautious", "standard", "fast", "AllAtOnce", "Linear50PercentEvery30Seconds", "Canary10Percent20Minutes", "Linear20PercentEvery6Minutes"} {
		s, err := fleet.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fleet.ParseSpec(data); err != nil {
			t.Errorf("preset %s does not survive its own format: %v", name, err)
		}
		if byTime := s.OnInconclusive == fleet.ContinueInconclusive; byTime != unicode.IsUpper(rune(name[0])) {
			t.Errorf("preset %s goes by time: %t", name, byTime) // AppConfig's do, ours hold
		}
	}
	if _, err := fleet.Preset("yolo"); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want Invalid", err)
	}
}

func TestPhaseNames(t *testing.T) {
	t.Parallel()
	for p := fleet.Idle; p <= fleet.Withdrawn; p++ {
		text, _ := p.MarshalText()
		var back fleet.Phase
		if err := back.UnmarshalText(text); err != nil || back != p {
			t.Errorf("%v: got %v, %v", p, back, err)
		}
	}
	if fleet.Healthy.InProgress() || !fleet.Downloading.InProgress() || fleet.Idle.InProgress() {
		t.Error("in progress is between offered and soaking")
	}
}

// A rollout over part of the fleet settles its release there and nowhere else.
func TestSettled(t *testing.T) {
	t.Parallel()
	eu, _ := fleet.ParseSelector("region=eu")
	v1, v2, v3 := release("1"), release("2"), release("3")
	runs := func(p fleet.Placement, region string) fleet.Version {
		a := p.Assign(fleet.Facts{ID: "cam", Labels: fleet.Labels{"region": region}})
		if a.Release == nil {
			return ""
		}
		return a.Release.Version
	}
	p := fleet.Placement{Model: "detector"}.Settled(fleet.Selector{}, v1)
	part := p.Settled(eu, v2)
	if runs(part, "eu") != "2" || runs(part, "us") != "1" || runs(p, "eu") != "1" {
		t.Errorf("eu runs %s, us %s, and before eu ran %s", runs(part, "eu"), runs(part, "us"), runs(p, "eu"))
	}
	if again := part.Settled(eu, v3); runs(again, "eu") != "3" || len(again.Overrides) != 1 {
		t.Errorf("a later release for the same part: %+v", again.Overrides)
	}
	if all := part.Settled(fleet.Selector{}, v3); runs(all, "eu") != "3" || runs(all, "us") != "3" || len(all.Overrides) != 0 {
		t.Errorf("a later release for everyone leaves %+v", all.Overrides)
	}
}
