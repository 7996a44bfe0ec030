package coordinator

import (
	"fmt"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
)

// sentence is an action for people who watch: "scorer@1.4.0: stage ten soaks: enough
// of the told members that answer have switched (told 4, switched 4)".
func sentence(s step, a rollout.Action) string {
	stage := ""
	if a.Stage >= 0 && a.Stage < len(s.run.spec.Stages) {
		stage = s.run.spec.Stages[a.Stage].Name
	}
	return s.run.rec.Release.Ref() + " " + clause(a, stage) + ": " + a.Reason.String()
}

func clause(a rollout.Action, stage string) string {
	switch a.Kind {
	case rollout.EnterState:
		return stateClause(a)
	case rollout.EnterStage:
		return "is in stage " + stage + ", which " + stageClause(a.To)
	case rollout.Expose:
		return fmt.Sprintf("is told to %s in stage %s", members(a.Members, "more "), stage)
	case rollout.Withdraw:
		return fmt.Sprintf("is withdrawn from %s that had not switched", members(a.Members, ""))
	case rollout.Return:
		return fmt.Sprintf("is taken back from %s", members(a.Members, ""))
	case rollout.Hold:
		return "is held in stage " + stage
	case rollout.Accept, rollout.Refuse:
		what := "a command"
		if a.Command != nil {
			what = fmt.Sprintf("%q by %s", a.Command.Kind, a.Command.By)
		}
		if a.Kind == rollout.Refuse {
			return "does not take " + what
		}
		return "takes " + what
	}
	return string(a.Kind)
}

func members(n int, more string) string {
	if n == 1 {
		return "1 " + more + "member"
	}
	return fmt.Sprintf("%d %smembers", n, more)
}

func stateClause(a rollout.Action) string {
	switch a.To {
	case rollout.AwaitingApproval.String():
		return "waits for approval"
	case rollout.Running.String():
		if a.From == rollout.Paused.String() {
			return "goes on"
		}
		return "is being rolled out"
	case rollout.Paused.String():
		return "is paused"
	case rollout.RollingBack.String():
		return "is being rolled back"
	case rollout.Succeeded.String():
		return "is rolled out, and stable now"
	case rollout.RolledBack.String():
		return "was rolled back"
	case rollout.Aborted.String():
		return "is not rolled out any further"
	case rollout.Superseded.String():
		return "gives way to a newer rollout"
	}
	return "is " + a.To
}

func stageClause(to string) string {
	switch to {
	case rollout.Waiting.String():
		return "has not begun"
	case rollout.Exposing.String():
		return "exposes members"
	case rollout.Soaking.String():
		return "soaks"
	case rollout.Deciding.String():
		return "has soaked and is judged"
	case rollout.Passed.String():
		return "passed"
	case rollout.Failed.String():
		return "failed"
	}
	return "is " + to
}
