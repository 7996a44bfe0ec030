package play

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// publish publishes the folder as a version of the demo's model.
func (w *world) publish(ctx context.Context, folder, version string, more ...string) error {
	args := append([]string{"publish", folder, string(model) + "@" + version}, more...)
	out, err := w.cli(ctx, args...)
	w.echo(out)
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
	tell := func(key, format string, args ...any) {
		if !told[key] {
			told[key] = true
			w.n.say(format, args...)
		}
	}
	err := until(ctx, limit, fmt.Sprintf("rollout %s is %s", id, strings.Join(want, " or ")), func() (bool, error) {
		r, err := w.client.Rollout(ctx, id)
		if err != nil {
			return false, err
		}
		last = r
		for i, s := range r.Stages {
			if s.State == "Waiting" {
				continue
			}
			why := ""
			if s.Verdict != nil && (s.State == "Passed" || s.State == "Failed") {
				why = ": " + s.Verdict.Reason
			}
			tell(fmt.Sprint(i, s.State), "stage %-7s %-9s %d of %d exposed, %s%s", s.Name, s.State, s.Exposed, r.Population, arms(r), why)
		}
		if r.State == "Draft" {
			return false, errors.New("it has not begun")
		}
		tell(r.State+r.Reason, "rollout %s is %s: %s", id, w.n.paint(bold, r.State), r.Reason)
		w.n.progress("members run "+r.Release.Ref(), r.StillOn, r.Population)
		for _, state := range want {
			if r.State == state {
				return true, nil
			}
		}
		return false, fmt.Errorf("it is %s: %s", r.State, r.Reason)
	})
	w.n.progress("", 0, 0)
	return last, err
}

// arms is exposed against control in a few words.
func arms(r api.RolloutInfo) string {
	return fmt.Sprintf("errors %s / %s, right %s / %s (exposed / control)",
		share(r.Exposed.Errors, r.Exposed.Requests), share(r.Control.Errors, r.Control.Requests),
		share(r.Exposed.Right, r.Exposed.Right+r.Exposed.Wrong), share(r.Control.Right, r.Control.Right+r.Control.Wrong))
}

func share(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}
