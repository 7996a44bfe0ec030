package publisher

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// usualBases is how many of the versions that members run get a delta.
const usualBases = 3

// Deltas says from which versions deltas to a new one are made. The zero value
// means the version before it.
type Deltas struct {
	Off bool
	// From is exactly these versions, in this order.
	From []fleet.Version
	// Members is how many members run each version. Without From, the versions
	// that most of them run get a delta as well.
	Members map[fleet.Version]int
	// Again makes also those that were not worth keeping when they were made before.
	Again bool
}

// Delta is what came of the delta from one version to a variant of a new one.
type Delta struct {
	From    fleet.Version `json:"from"`
	Variant string        `json:"variant"`
	// Bytes is what a member that has the other version fetches, and Full what
	// one without fetches, of the files that differ.
	Bytes int64  `json:"bytes"`
	Full  int64  `json:"full"`
	Files int    `json:"files"`           // files that differ
	Tried int    `json:"tried"`           // of them, those that the other version has and that are not small
	Kept  int    `json:"kept"`            // of them, those that have a delta in the bucket
	Known int    `json:"known"`           // of those tried, the ones that were made before, kept or not
	Sent  int64  `json:"sent"`            // bytes of objects that were made
	Error string `json:"error,omitempty"` // why there is none
	Err   error  `json:"-"`
}

// name is what the delta is called while it is made.
func (d Delta) name() string {
	if d.Variant != fleet.DefaultVariant {
		return fmt.Sprintf("delta from %s, %s", d.From, d.Variant)
	}
	return "delta from " + string(d.From)
}

// String is how the delta compares with what is fetched without it.
func (d Delta) String() string {
	switch {
	case d.Error != "":
		return "none was made: " + d.Error
	case d.Files == 0:
		return "no file differs"
	case d.Tried == 0:
		return "not needed: each file that differs is new, or so small that it is fetched whole"
	case d.Kept == 0 && d.Known == d.Tried:
		return "80 % of the full pack or more when it was made before: not kept"
	case d.Kept == 0:
		return "80 % of the full pack or more: not kept"
	}
	return fmt.Sprintf("%s of the full pack (%s)", percent(d.Bytes, d.Full), console.Bytes(d.Bytes))
}

func percent(part, whole int64) string {
	p := 100 * float64(part) / float64(max(whole, 1))
	if p < 10 {
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.0f %%", p)
}

// bases picks the versions, out of those that the team lists of the model, from
// which members come to the given one.
func (d Deltas) bases(role trust.TeamRole, to fleet.Release) ([]fleet.Version, error) {
	if d.Off {
		return nil, nil
	}
	counters := map[fleet.Version]uint64{}
	for _, e := range role.Entries {
		if e.Release.Model == to.Model {
			counters[e.Release.Version] = e.Release.Counter
		}
	}
	own, listed := counters[to.Version]
	delete(counters, to.Version)
	for _, v := range d.From {
		if _, ok := counters[v]; !ok {
			return nil, fault.Newf(fault.NotFound, "find release", string(to.Model)+"@"+string(v), "team %s does not list it", to.Team).
				WithHint("a delta is made from another published version of the model; `modelfleet releases list` shows them")
		}
	}
	if len(d.From) > 0 {
		return slices.Compact(slices.Clone(d.From)), nil
	}
	newest := slices.SortedFunc(maps.Keys(counters), func(a, b fleet.Version) int { return cmp.Compare(counters[b], counters[a]) })
	before := slices.IndexFunc(newest, func(v fleet.Version) bool { return !listed || counters[v] < own })
	run := slices.DeleteFunc(slices.Clone(newest), func(v fleet.Version) bool { return d.Members[v] == 0 })
	slices.SortStableFunc(run, func(a, b fleet.Version) int { return cmp.Compare(d.Members[b], d.Members[a]) })
	out := run[:min(len(run), usualBases)]
	if before >= 0 && !slices.Contains(out, newest[before]) {
		out = append(slices.Clone(out), newest[before])
	}
	return out, nil
}
