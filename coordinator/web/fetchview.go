package web

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// fetchView is how far a download is, or several together.
type fetchView struct {
	Bar   template.HTML
	Short string // "50 % · 1.0 MiB/s · 9s left", for a table
	Long  string // "9.0 MiB of 18.0 MiB, 1.0 MiB/s, about 9s left"
	Keys  []key  // what the bar's colours stand for
}

// newFetchView draws a download. What is not known is a dash.
func newFetchView(done, total int64, from api.Sources, rate int64, left fleet.Duration) fetchView {
	share, speed, rest := percent(ratio(uint64(max(done, 0)), uint64(max(total, 0)))), "–", "–"
	if rate > 0 {
		speed = size(rate) + "/s"
	}
	if left > 0 {
		rest = chart.Duration(left.D().Round(time.Second))
	}
	v := fetchView{
		Short: fmt.Sprintf("%s · %s · %s left", share, speed, rest),
		Long:  fmt.Sprintf("%s of %s (%s), %s, %s left", size(done), size(total), share, speed, rest),
	}
	var segs []chart.Segment
	for _, p := range from.Parts() {
		if p.Bytes > 0 {
			segs = append(segs, chart.Segment{Class: "from-" + p.Name, Name: p.Words, N: int(p.Bytes)})
			v.Keys = append(v.Keys, key{"from-" + p.Name, p.Words, size(p.Bytes)})
		}
	}
	if len(segs) == 0 && done > 0 { // a member that does not say from where
		segs = []chart.Segment{{Class: "busy", Name: "verified", N: int(done)}}
	}
	v.Bar = chart.Bar("verified "+share, int(total), segs, func(n int) string { return size(int64(n)) })
	return v
}

// fetchOf is the download of a member's model; none when there is nothing to show.
func fetchOf(st api.ModelStatus) []fetchView {
	if st.Phase != fleet.Downloading || st.BytesTotal <= 0 {
		return nil
	}
	var from api.Sources
	if st.BytesFrom != nil {
		from = *st.BytesFrom
	}
	v := newFetchView(st.BytesDone, st.BytesTotal, from, st.Rate, st.Left)
	if st.Waits != "" {
		v.Short, v.Long = "waits for "+st.Waits, "waits for "+st.Waits+": "+v.Long
	}
	return []fetchView{v}
}

// fetchingOf is the downloads of a rollout together.
func fetchingOf(x *api.FetchingInfo) []fetchView {
	if x == nil {
		return nil
	}
	v := newFetchView(x.Done, x.Total, x.From, x.Rate, x.Left)
	who := plural(x.Members, "member") + " download: "
	if x.Members == 1 {
		who = "1 member downloads: "
	}
	v.Long = who + v.Long
	return []fetchView{v}
}

// stuckOf is the sentence about a member that cannot bring its target in; empty
// for others.
func stuckOf(st api.ModelStatus, now time.Time) string {
	text := st.StuckText(now)
	if text == "" || st.Rate > 0 {
		return ""
	}
	return "It " + text + ". It tries again by itself, and this does not count against the release."
}

// stuckWord is what a table says instead of the phase of a stuck member.
func stuckWord(st api.ModelStatus) string {
	if st.Phase == fleet.Downloading {
		return ""
	}
	word, _, _ := strings.Cut(st.StuckText(time.Time{}), ":")
	return word
}

// harms are what went wrong on a member that is no release's fault.
func harms(x *api.DeliveryInfo) []string {
	if x == nil {
		return nil
	}
	var out []string
	if x.Damaged > 0 {
		out = append(out, fmt.Sprintf("its disk damaged files (%d since its agent started); what is damaged is fetched again", x.Damaged))
	}
	if x.Liars > 0 {
		who := "a neighbour"
		if x.Liar != "" {
			who = string(x.Liar)
		}
		out = append(out, "it left out "+who+", which delivered other bytes than were signed")
	}
	return out
}
