package play

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// actStart builds the programs, and brings up S3, the keys and the coordinator.
func (w *world) actStart(ctx context.Context) (string, error) {
	w.n.say("building the programs; the first time it takes a few minutes")
	go w.train(ctx)
	if err := w.build(ctx); err != nil {
		return "", err
	}
	if err := w.startStore(ctx); err != nil {
		return "", err
	}
	out, err := w.cli(ctx, "init", "--dir", w.fleetDir(), "--name", fleetName, "--team", team,
		"--bucket", w.store.bucket, "--s3-endpoint", w.store.endpoint, "--region", w.o.Region)
	w.echo(out)
	if err != nil {
		return "", err
	}
	w.n.say("its root of trust is one key of one: enough to begin with, not for a fleet that matters")
	if err := w.startCoordinator(ctx); err != nil {
		return "", err
	}
	return "coordinator at " + w.url + ", gossip member of " + sites[0], nil
}

// actJoin lets the devices enrol by one token.
func (w *world) actJoin(ctx context.Context) (string, error) {
	if err := w.plan(); err != nil {
		return "", err
	}
	w.slow().flags = []string{"-rate", "4MiB", "-share", "off"}
	token, err := cliJSON[api.Token](ctx, w, "token", "create", "--uses", fmt.Sprint(len(w.agents)), "--ttl", "1h")
	if err != nil {
		return "", err
	}
	if err := w.startDevices(ctx, token.Text); err != nil {
		return "", err
	}
	err = proctest.Until(ctx, proctest.Patience, "every device reports", func() (bool, error) {
		for _, d := range w.agents {
			if !d.agent.Running() {
				return false, fault.Newf(fault.Internal, "run agent", string(d.id), "it ended: %s", d.agent.Tail(3))
			}
		}
		members, err := w.members(ctx)
		if err != nil {
			return false, err
		}
		via := map[string]int{}
		for _, m := range members {
			if !m.Seen.IsZero() {
				via[m.Via]++
			}
		}
		n := 0
		for _, k := range via {
			n += k
		}
		w.n.progress("devices report", n, len(w.agents))
		if n < len(w.agents) {
			return false, fmt.Errorf("%d of %d do", n, len(w.agents))
		}
		w.n.say("first reports came: %d directly, %d by gossip, %d through a relay", via["direct"], via["gossip"], via["relay"])
		return true, nil
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d members in %d sites, each with a key, a certificate and a gossip cell", len(w.agents), len(sites)), nil
}

// everyone is a policy for the first release: nobody runs anything yet.
const everyone = `# The first release of a model: there is nothing to compare it with.
stages:
  - {name: lab, selector: "ring=lab", soak: 1s}
  - {name: all, percent: 100, soak: 1s}
burnIn: 500ms
memberSoak: 1s
stageDeadline: 30s
onInconclusive: continue
`

// actFirst publishes v1 and gives it to everyone.
func (w *world) actFirst(ctx context.Context) (string, error) {
	if len(w.trained) == 0 {
		w.n.say("waiting for the models: an MLP on generated machine sensors, trained here by SGD")
	}
	select {
	case err := <-w.trained:
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
	for _, v := range []string{"v1", "v2", "v3"} {
		r := w.releases[v]
		w.n.say("trained %s: %d parameters in %.1fs; on machines it never saw: right %.1f%%, errors %.2f%%",
			v, r.Parameters, r.Took.Seconds(), 100*r.Evaluation.Overall.Accuracy, 100*r.Evaluation.Overall.Errors)
	}
	if err := w.publish(ctx, w.releases["v1"].Dir, "1.0.0"); err != nil {
		return "", err
	}
	policy, err := w.policy("everyone", everyone)
	if err != nil {
		return "", err
	}
	r, err := w.start(ctx, "1.0.0", policy)
	if err != nil {
		return "", err
	}
	if r, err = w.follow(ctx, r.ID, proctest.Patience, "Succeeded"); err != nil {
		return "", err
	}
	if err := w.awaitRunning(ctx, proctest.Patience, fleet.Device, ref("1.0.0"), len(w.agents)); err != nil {
		return "", err
	}
	bucket, err := w.bucket(ctx)
	if err != nil {
		return "", err
	}
	if w.oldPack, err = content(ctx, bucket, fleet.DefaultGroup.PackKey()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d devices run %s %.1fs after the rollout began", r.EverExposed, r.Release.Ref(), r.Ended.Sub(r.Started).Seconds()), nil
}

func ref(version string) string { return string(model) + "@" + version }

// staged is the policy of v2 and v3. The more members a stage has, the sooner they
// have told as much.
const staged = `stages:
  - {name: lab,  selector: "ring=lab", soak: 4s}
  - {name: ten,  percent: 10,  soak: 3s}
  - {name: half, percent: 50,  soak: 2s, budget: {inProgress: 16}}
  - {name: all,  percent: 100, soak: 2s, control: 5}
gates:
  - {gate: fatal}
  - {gate: errors, tolerate: 50%}
  - {gate: breaker, failures: 3, of: 5}
alpha: 1%
burnIn: 1s
memberSoak: 2s
health: {failStreak: 20, restarts: 2}
stageDeadline: 15s
onInconclusive: continue
onFail: rollback
`

// actBetter takes v2 through its stages by its gates.
func (w *world) actBetter(ctx context.Context) (string, error) {
	if err := w.publish(ctx, w.releases["v2"].Dir, "2.0.0"); err != nil {
		return "", err
	}
	policy, err := w.policy("staged", staged)
	if err != nil {
		return "", err
	}
	r, err := w.start(ctx, "2.0.0", policy)
	if err != nil {
		return "", err
	}
	if r, err = w.follow(ctx, r.ID, proctest.Patience, "Succeeded", "RolledBack", "Paused"); err != nil {
		return "", err
	}
	if r.State != "Succeeded" {
		return "", fmt.Errorf("a better release is %s: %s", words(r.State), r.Reason)
	}
	if err := w.awaitRunning(ctx, proctest.Patience, fleet.Device, ref("2.0.0"), len(w.agents)); err != nil {
		return "", err
	}
	if err := w.awaitRunning(ctx, proctest.Patience, fleet.Function, ref("2.0.0"), environments); err != nil {
		return "", err
	}
	w.n.figure("v2 rollout, start to done", r.Ended.Sub(r.Started).Seconds(), "s")
	return fmt.Sprintf("all %d members run %s, after %d stages that passed their gates: %s", r.Population, r.Release.Ref(), len(r.Stages), arms(r)), nil
}

// actBad lets v3 be caught, rolled back and quarantined.
func (w *world) actBad(ctx context.Context) (string, error) {
	if err := w.publish(ctx, w.releases["v3"].Dir, "3.0.0"); err != nil {
		return "", err
	}
	policy, err := w.policy("staged", staged)
	if err != nil {
		return "", err
	}
	began := time.Now()
	r, err := w.start(ctx, "3.0.0", policy)
	if err != nil {
		return "", err
	}
	if r, err = w.follow(ctx, r.ID, proctest.Patience, "RolledBack", "Succeeded", "Paused"); err != nil {
		return "", err
	}
	if r.State != "RolledBack" {
		return "", fmt.Errorf("a bad release is %s: %s", words(r.State), r.Reason)
	}
	if err := w.awaitRunning(ctx, proctest.Patience, fleet.Device, ref("2.0.0"), len(w.agents)); err != nil {
		return "", err
	}
	back := time.Since(began)
	if r.EverExposed > len(w.agents)/4 {
		return "", fmt.Errorf("%d members ran it", r.EverExposed)
	}
	quarantined := 0
	err = proctest.Until(ctx, proctest.Patience, "every member that ran it refuses it", func() (bool, error) {
		quarantined, err = w.quarantined(ctx, ref("3.0.0"))
		if err == nil && quarantined < r.EverExposed {
			err = fmt.Errorf("%d of %d do", quarantined, r.EverExposed)
		}
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	w.n.figure("v3 members that ever ran it", float64(r.EverExposed), "members")
	w.n.figure("v3 rollout start to the last exposed member back on v2", back.Seconds(), "s")
	w.n.figure("v3 members that quarantined it", float64(quarantined), "members")
	return fmt.Sprintf("%d of %d members ever ran it, all were back %.1fs after it began, %d refuse it from now on; %s",
		r.EverExposed, r.Population, back.Seconds(), quarantined, verdict(r)), nil
}

// quarantined counts the devices that refuse the release, asked of themselves: a
// row tells of a refusal only while it is what the device is busy with.
func (w *world) quarantined(ctx context.Context, ref string) (int, error) {
	n := 0
	for _, d := range w.agents {
		m, err := d.local(ctx)
		if err != nil {
			return n, err
		}
		if slices.ContainsFunc(m.Quarantined, func(r local.Refused) bool { return r.Ref == ref }) {
			n++
		}
	}
	return n, nil
}
