package play

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// publish publishes the folder as a version of the demo's model.
func (w *world) publish(ctx context.Context, folder, version string, more ...string) error {
	args := append([]string{"publish", folder, string(model) + "@" + version}, more...)
	w.n.command(append([]string{"modelfleet"}, args...)...)
	_, said, err := w.run(ctx, args...)
	w.echo(said)
	return err
}

// echo tells what a command printed, indented.
func (w *world) echo(out string) {
	for line := range strings.Lines(out) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			w.n.say("  %s", w.n.paint(dim, line))
		}
	}
}

// policy writes a rollout spec and returns its path.
func (w *world) policy(name, yaml string) (string, error) {
	path := filepath.Join(w.dir, name+".yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o644); err != nil {
		return "", fmt.Errorf("write policy: %w", err)
	}
	return path, nil
}

// start starts a rollout of a version by a policy.
func (w *world) start(ctx context.Context, version, policy string) (api.RolloutInfo, error) {
	return cliJSON[api.RolloutInfo](ctx, w, "rollout", "start", string(model)+"@"+version, "-f", policy)
}

// follow tells each change of a rollout until it is in a state of want.
func (w *world) follow(ctx context.Context, id fleet.RolloutID, limit time.Duration, want ...string) (api.RolloutInfo, error) {
	var last api.RolloutInfo
	told := map[string]bool{}
	tell := func(key string, lines ...string) {
		if told[key] {
			return
		}
		told[key] = true
		for _, line := range lines {
			if line != "" {
				w.n.say("%s", line)
			}
		}
	}
	err := proctest.Until(ctx, limit, fmt.Sprintf("rollout %s is %s", id, strings.Join(want, " or ")), func() (bool, error) {
		if !w.coord.Running() {
			return false, fault.Newf(fault.Internal, "run coordinator", "", "it ended:\n%s", w.coord.Tail(8))
		}
		r, err := w.client.Rollout(ctx, id)
		if err != nil {
			return false, err
		}
		last = r
		if r.State == "Draft" {
			return false, errors.New("it has not begun")
		}
		state := func() { tell(r.State, w.stateLine(r)) }
		if r.State == "Running" {
			state() // before its stages; an end comes after them
		}
		for i, s := range r.Stages {
			if s.State != "Waiting" {
				tell(fmt.Sprint(i, s.State), w.stageLines(r, s)...)
			}
		}
		state()
		w.n.progress("members run "+r.Release.Ref(), r.StillOn, r.Population)
		for _, state := range want {
			if r.State == state {
				return true, nil
			}
		}
		return false, fmt.Errorf("it is %s: %s", words(r.State), r.Reason)
	})
	w.n.progress("", 0, 0)
	return last, err
}

// stateLine tells which state a rollout is in and why, unless a stage's verdict,
// which is told already, is all there is to say.
func (w *world) stateLine(r api.RolloutInfo) string {
	why := r.Reason
	for _, s := range r.Stages {
		if s.Verdict != nil && s.Verdict.Reason != "" {
			why = strings.TrimPrefix(why, s.Verdict.Reason)
		}
	}
	why = strings.TrimLeft(why, "; ")
	if why == "" || strings.HasPrefix(why, "(") || r.State == "Succeeded" { // the figures behind the last verdict
		return fmt.Sprintf("rollout %s: %s", r.ID, w.n.paint(bold, words(r.State)))
	}
	return fmt.Sprintf("rollout %s: %s, %s", r.ID, w.n.paint(bold, words(r.State)), why)
}

// stageLines tell where a stage stands and, once it is decided, why.
func (w *world) stageLines(r api.RolloutInfo, s api.StageInfo) []string {
	line := fmt.Sprintf("stage %-5s %-9s %2d of %d exposed", s.Name, words(s.State), s.Exposed, r.Population)
	if seen := arms(r); seen != "" {
		line += ": " + seen
	}
	if s.Verdict == nil || s.State != "Passed" && s.State != "Failed" {
		return []string{line}
	}
	return []string{line, w.n.paint(dim, "            "+s.Verdict.Reason)}
}

// verdict is why a rollout's last decided stage came out as it did.
func verdict(r api.RolloutInfo) string {
	why := r.Reason
	for _, s := range r.Stages {
		if s.Verdict != nil && (s.State == "Passed" || s.State == "Failed") {
			why = s.Verdict.Reason
		}
	}
	return why
}

// words is a state's name for people: "RollingBack" is "rolling back".
func words(state string) string {
	var b strings.Builder
	for i, r := range state {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// arms is what exposed members report, against the control where there is one;
// nothing before they do.
func arms(r api.RolloutInfo) string {
	x, c := r.Exposed, r.Control
	if x.Requests == 0 {
		return ""
	}
	text := "errors " + against(x.Errors, x.Requests, c.Errors, c.Requests)
	if x.Right+x.Wrong > 0 {
		text += ", right " + against(x.Right, x.Right+x.Wrong, c.Right, c.Right+c.Wrong)
	}
	return text
}

func against(part, whole, controlPart, controlWhole uint64) string {
	if controlWhole == 0 {
		return share(part, whole)
	}
	return share(part, whole) + " (control " + share(controlPart, controlWhole) + ")"
}

func share(part, whole uint64) string {
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}
