package desk

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
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
			Reason: said(fmt.Sprintf("raised to counter %d, so that nothing older runs,", a.Floors[m]), a), Detail: map[string]any{"floor": a.Floors[m]},
		})
	}
	return notes
}
