package play

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
)

func TestABarStaysOnItsLineAndIsRedrawnOnlyWhenItMoved(t *testing.T) {
	var out bytes.Buffer
	n := &narrator{out: &out, began: time.Now(), width: func() int { return 40 }}
	n.progress("members run service-needed@2.0.0", 6, 52)
	first := out.String()
	if columns := len([]rune(first)); columns >= 40 {
		t.Errorf("the bar has %d columns of 40: %q", columns, first)
	}
	n.progress("members run service-needed@2.0.0", 6, 52)
	if out.String() != first {
		t.Errorf("a bar that did not move was drawn again: %q", out.String())
	}
	n.say("an event")
	if !strings.HasSuffix(out.String(), " an event\n"+first) {
		t.Errorf("after an event the bar is not below it: %q", out.String())
	}
	n.progress("", 0, 0)
	if n.bar != "" {
		t.Errorf("the bar stays: %q", n.bar)
	}
}

func TestWithoutATerminalThereAreNoBars(t *testing.T) {
	var out bytes.Buffer
	newNarrator(&out).progress("programs built", 1, 6)
	if out.Len() > 0 {
		t.Errorf("it wrote %q", out.String())
	}
}

func TestAVerdictIsToldOnce(t *testing.T) {
	const why = "5 gates passed with 26 exposed members against 26"
	w := &world{n: &narrator{out: &bytes.Buffer{}}}
	stage := api.StageInfo{Name: "half", State: "Passed", Exposed: 26, Verdict: &api.VerdictInfo{Reason: why}}
	r := api.RolloutInfo{ID: "r2-a", Population: 52, Stages: []api.StageInfo{stage}}
	r.Exposed.Requests, r.Exposed.Right, r.Exposed.Wrong = 100, 93, 7
	r.Control.Requests, r.Control.Errors, r.Control.Right, r.Control.Wrong = 200, 1, 180, 20
	for _, c := range []struct{ state, reason, want string }{
		{"Running", "started (stages 4, population 52)", "rollout r2-a: running, started (stages 4, population 52)"},
		{"Succeeded", why + " (e 0.9, healthy 49)", "rollout r2-a: succeeded"},
		{"RollingBack", why + " (e 109.3)", "rollout r2-a: rolling back"},
		{"RolledBack", why + "; every member runs something else", "rollout r2-a: rolled back, every member runs something else"},
	} {
		r.State, r.Reason = c.state, c.reason
		if got := w.stateLine(r); got != c.want {
			t.Errorf("%s: got %q, want %q", c.state, got, c.want)
		}
	}
	lines := w.stageLines(r, stage)
	want := []string{"stage half  passed    26 of 52 exposed: errors 0.0% (control 0.5%), right 93.0% (control 90.0%)", "            " + why}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", lines, want)
	}
}

func TestDigestsAreShortened(t *testing.T) {
	d := strings.Repeat("ab", 32)
	if got, want := short("frame 2 of files/"+d+"/raw is bad"), "frame 2 of files/abababababab…/raw is bad"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLongLinesBreakAtWordsRightOfTheTime(t *testing.T) {
	n := &narrator{color: true, width: func() int { return 40 }}
	for _, c := range []struct{ text, want string }{
		{"short", "short"},
		{"the bytes are put right; the device goes on", "the bytes are put right; the\n          device goes on"},
		{"  " + n.paint(dim, "hint: sign with the key that is trusted"), "  \x1b[2mhint: sign with the key\n            that is trusted\x1b[0m"},
		{strings.Repeat("x", 60), strings.Repeat("x", 60)},
	} {
		if got := n.wrap(c.text); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	n.width = nil
	if long := strings.Repeat("word ", 60); n.wrap(long) != long {
		t.Error("without a terminal a line was broken")
	}
}
