package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// What is not known is a dash: it is not zero.
const unknown = "-"

// doneText is "18.0 MiB of 64.0 MiB (28%)".
func doneText(done, total int64) string {
	if total <= 0 {
		return ""
	}
	return fmt.Sprintf("%s of %s (%d%%)", console.Bytes(done), console.Bytes(total), min(100, 100*done/total))
}

func rateText(rate int64) string {
	if rate <= 0 {
		return unknown
	}
	return console.Bytes(rate) + "/s"
}

func leftText(left fleet.Duration) string {
	if left <= 0 {
		return unknown
	}
	return "about " + left.D().Round(time.Second).String()
}

// fetchPairs are the lines about a download under way, or about the one that
// brought what is being tried.
func fetchPairs(st api.ModelStatus) []string {
	var pairs []string
	if st.BytesTotal > 0 && (st.BytesDone > 0 || st.Phase == fleet.Downloading) {
		pairs = append(pairs, "fetched", doneText(st.BytesDone, st.BytesTotal))
	}
	if st.BytesFrom != nil {
		pairs = append(pairs, "sources", st.BytesFrom.Text(console.Bytes))
	}
	if st.Phase == fleet.Downloading {
		pairs = append(pairs, "rate", rateText(st.Rate), "time left", leftText(st.Left))
	}
	return pairs
}

// stuckText is what keeps a member from its target, with what that means.
func stuckText(st api.ModelStatus, now time.Time) string {
	text := st.StuckText(now)
	if text == "" || st.Rate > 0 {
		return ""
	}
	return "it " + text + "; it tries again by itself, which does not count against the release"
}

// deliveryPairs are the lines about what a member fetched since its agent started.
func deliveryPairs(x *api.DeliveryInfo) []string {
	if x == nil {
		return nil
	}
	pairs := []string{"delivered", x.From.Text(console.Bytes)}
	if x.Wire > 0 && pairs[1] != "" {
		pairs[1] += "; " + console.Bytes(x.Wire) + " travelled from the bucket"
	}
	if x.Damaged > 0 {
		pairs = append(pairs, "damaged", fmt.Sprintf("files on its disk (%d); what is damaged is fetched again", x.Damaged))
	}
	if x.Liars > 0 {
		pairs = append(pairs, "left out", fmt.Sprintf("neighbours that delivered other bytes than were signed (%d), the last %s", x.Liars, cmp.Or(string(x.Liar), "unknown here")))
	}
	return pairs
}

// fetchingText sums up who downloads a rollout's release; empty when nobody does.
func fetchingText(x *api.FetchingInfo) string {
	if x == nil {
		return ""
	}
	who := fmt.Sprintf("%d members download", x.Members)
	if x.Members == 1 {
		who = "1 member downloads"
	}
	text := who + ": " + doneText(x.Done, x.Total)
	if x.Rate > 0 {
		text += ", " + rateText(x.Rate)
	}
	if x.Left > 0 {
		text += ", " + leftText(x.Left) + " left"
	}
	if from := x.From.Text(console.Bytes); from != "" {
		text += "; " + from
	}
	return text
}

// stuckTexts say who cannot bring a rollout's release in, a reason each.
func stuckTexts(stuck []api.StuckInfo, now time.Time) []string {
	out := make([]string, len(stuck))
	for i, s := range stuck {
		out[i] = s.Text(now)
	}
	return out
}

// stateClause says a rollout's state of its release: "is being rolled out".
func stateClause(state string) string {
	switch state {
	case "Draft":
		return "waits for its turn"
	case "AwaitingApproval":
		return "waits for approval"
	case "Running":
		return "is being rolled out"
	case "Paused":
		return "is paused"
	case "RollingBack":
		return "is being rolled back"
	case "Succeeded":
		return "is rolled out"
	case "RolledBack":
		return "was rolled back"
	case "Aborted":
		return "was aborted"
	case "Superseded":
		return "gave way to a newer rollout"
	}
	return "is " + strings.ToLower(state)
}

// stageClause says a stage's state: "soaks".
func stageClause(state string) string {
	switch state {
	case "Waiting":
		return "has not begun"
	case "Exposing":
		return "exposes members"
	case "Soaking":
		return "soaks"
	case "Deciding":
		return "has soaked and is judged"
	case "Passed":
		return "passed"
	case "Failed":
		return "failed"
	}
	return "is " + strings.ToLower(state)
}
