package desk

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// said is how a publisher's change is told in the audit log, with the reason that
// it signed.
func said(verb string, a repository.Admission) string {
	text := fmt.Sprintf("%s by team %s, role version %d", verb, a.Team, a.Version)
	if a.Reason != "" {
		text += ": " + a.Reason
	}
	return text
}

// floorNotes are the audit entries of floors that a publisher raised.
func floorNotes(a repository.Admission, by string, now time.Time) []audit.Note {
	var notes []audit.Note
	for _, m := range slices.Sorted(maps.Keys(a.Floors)) {
		notes = append(notes, audit.Note{
			At: now, Actor: by, Action: audit.FloorRaised, Subject: string(m),
			Reason: said(fmt.Sprintf("raised to counter %d", a.Floors[m]), a), Detail: map[string]any{"floor": a.Floors[m]},
		})
	}
	return notes
}

// below is the releases that raised floors bar from running.
func (d *Desk) below(ctx context.Context, a repository.Admission) ([]fleet.Release, error) {
	if len(a.Floors) == 0 {
		return nil, nil
	}
	rs, err := d.o.Store.Releases(ctx)
	if err != nil {
		return nil, err
	}
	var out []fleet.Release
	for _, r := range rs {
		if r.Team == a.Team && r.Counter < a.Floors[r.Model] {
			out = append(out, r.Release)
		}
	}
	return out, nil
}
