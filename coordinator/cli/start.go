package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/policy"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// rolloutStart is `rollout start`.
type rolloutStart struct {
	*desk
	file, preset, group, reason string
	dryRun, watch, retry        bool
}

func (d *desk) rolloutStart() *cobra.Command {
	o := &rolloutStart{desk: d}
	cmd := &cobra.Command{
		Use: "start MODEL@VERSION", Short: "Start a rollout", Args: cobra.ExactArgs(1),
		Long: `Start a rollout of an admitted release with a policy file or a preset: cautious,
standard, fast, or an AWS AppConfig strategy (AllAtOnce,
Linear50PercentEvery30Seconds, Canary10Percent20Minutes,
Linear20PercentEvery6Minutes). "-f -" reads the policy from standard input.

A policy with every setting:

  population: {selector: "region in (eu, us), class != lab"}  # default: all
  stages:
    - {name: lab, selector: "ring=lab", soak: 10m}
    - {name: one, percent: 1, soak: 30m}
    - {name: ten, percent: 10, soak: 2h, budget: {inProgress: 200, perLabel: {site: 1}}}
    - {name: all, percent: 100, soak: 6h, control: 5, approval: 1}
  gates:                             # all are on by default
    - {gate: errors, tolerate: 5%}
    - {gate: latency, at: [p95, p99], tolerate: 10%}
    - {gate: breaker, failures: 3, of: 5}
    - {gate: drift, off: true}
  alpha: 1%                          # chance that a healthy release is rolled back
  stageDeadline: 24h                 # how long a stage may go without a verdict
  onInconclusive: hold               # hold, continue or abort
  onFail: rollback                   # rollback or pause
  windows: [{from: 02:00, to: 05:30, days: [mon, tue]}]  # each member's local time
  retry: true                        # retry a release that failed before

A release that failed the gates of a rollout is refused, and stays quarantined on the
members that had it, until a rollout of it is started with --retry.`,
		Example: `  modelfleet rollout start detector@1.5.0 --preset standard
  modelfleet rollout start detector@1.5.0 -f policy.yaml --reason 'ghosts at night' --watch
  modelfleet rollout start detector@1.5.0 -f policy.yaml --retry     # it failed before for another reason
  modelfleet rollout start detector@1.5.0 -f policy.yaml --dry-run   # show the plan`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "policy `file`")
	f.StringVar(&o.preset, "preset", "", "name of a built-in policy")
	f.StringVar(&o.group, "group", "", "member `group` to roll out to; default: the group named default")
	f.StringVar(&o.reason, "reason", "", "reason, for the audit log")
	f.BoolVar(&o.retry, "retry", false, "retry a release that failed in an earlier rollout, even where it is quarantined")
	f.BoolVar(&o.dryRun, "dry-run", false, "check the policy and the release and print the plan with member counts; start nothing")
	f.BoolVarP(&o.watch, "watch", "w", false, "watch the rollout to its end")
	_ = cmd.RegisterFlagCompletionFunc("preset", cobra.FixedCompletions([]string{"cautious", "standard", "fast", "AllAtOnce", "Linear50PercentEvery30Seconds", "Canary10Percent20Minutes", "Linear20PercentEvery6Minutes"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is declared above
	return cmd
}

func (o *rolloutStart) run(ctx context.Context, ref string) error {
	model, version, err := fleet.ParseRef(ref)
	if err != nil {
		return err
	}
	spec, text, err := o.spec()
	if err != nil {
		return err
	}
	spec.Retry = spec.Retry || o.retry
	client, err := o.client()
	if err != nil {
		return err
	}
	x, err := client.StartRollout(ctx, api.RolloutRequest{Model: model, Version: version, Group: fleet.Group(o.group), Spec: text, Preset: o.preset, Reason: o.reason, Retry: o.retry, DryRun: o.dryRun})
	if err != nil {
		return err
	}
	if o.dryRun {
		if o.json() {
			return o.JSON(map[string]any{"spec": spec, "rollout": x})
		}
		return o.printPlan(spec, x)
	}
	if o.watch {
		return (&rolloutWatch{desk: o.desk, every: watchEvery}).run(ctx, string(x.ID))
	}
	if o.json() {
		return o.JSON(x)
	}
	o.Print("%s", x.ID)
	o.Say("rollout of %s has begun; `modelfleet rollout watch %s` follows it", x.Release.Ref(), x.ID)
	return nil
}

// spec is the policy, checked here so that a mistake is told with its line.
func (o *rolloutStart) spec() (fleet.Spec, json.RawMessage, error) {
	const op = "start rollout"
	switch {
	case o.file != "" && o.preset != "":
		return fleet.Spec{}, nil, fault.Newf(fault.Invalid, op, "", "both a policy file and a preset are given").WithHint("give one of -f and --preset")
	case o.preset != "":
		spec, err := fleet.Preset(o.preset)
		return spec, nil, err
	case o.file == "":
		return fleet.Spec{}, nil, fault.Newf(fault.Invalid, op, "", "there is neither a policy file nor a preset").WithHint("give -f policy.yaml or --preset standard")
	}
	name, data, err := o.file, []byte(nil), error(nil)
	if name == "-" {
		name = "standard input"
		data, err = io.ReadAll(io.LimitReader(o.In, policy.MaxBytes+1))
	} else {
		data, err = os.ReadFile(o.file)
	}
	if err != nil {
		kind := fault.Invalid
		if os.IsNotExist(err) {
			kind = fault.NotFound
		}
		return fleet.Spec{}, nil, fault.New(kind, "read policy", name, err)
	}
	return policy.Parse(name, data)
}

// printPlan prints what would start.
func (o *rolloutStart) printPlan(s fleet.Spec, x api.RolloutInfo) error {
	population := fmt.Sprintf("%s: %s", console.Count(x.Population, "member"), cmp.Or(s.Population.Selector.String(), "all that can run it"))
	err := o.Pairs("release", x.Release.Ref(), "from", x.From, "population", population, "alpha", fmt.Sprintf("%g%%", float64(s.Alpha)), "stage deadline", s.StageDeadline.String(),
		"inconclusive", string(s.OnInconclusive), "failing gate", string(s.OnFail), "tried again", map[bool]string{true: "even where it failed before"}[s.Retry])
	if err != nil {
		return err
	}
	o.Print("")
	var rows [][]string
	for i, st := range s.Stages {
		members := ""
		if i < len(x.Stages) {
			members = fmt.Sprint(x.Stages[i].Target)
		}
		rows = append(rows, []string{st.Name, exposes(st), members, st.Soak.String(), budgetText(st.Budget), needs(int(st.Approval))})
	}
	return o.Table("STAGE EXPOSES MEMBERS SOAK BUDGET APPROVAL", rows)
}

// exposes says whom a stage exposes.
func exposes(st fleet.Stage) string {
	who := "all"
	switch {
	case st.Count > 0:
		who = fmt.Sprint(st.Count)
	case st.Percent > 0:
		who = fmt.Sprintf("%g%%", float64(st.Percent))
	}
	if !st.Selector.IsEmpty() {
		who += " of " + st.Selector.String()
	}
	if st.Control > 0 {
		who += fmt.Sprintf(", %g%% kept as control", float64(st.Control))
	}
	return who
}

func budgetText(b fleet.Budget) string {
	var parts []string
	if b.InProgress > 0 {
		parts = append(parts, fmt.Sprintf("%d at once", b.InProgress))
	}
	if len(b.PerLabel) > 0 {
		labels := fleet.Labels{}
		for k, n := range b.PerLabel {
			labels[k] = fmt.Sprint(n)
		}
		parts = append(parts, "per "+labels.String())
	}
	return strings.Join(parts, ", ")
}

func needs(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}
