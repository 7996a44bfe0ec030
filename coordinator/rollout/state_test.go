package rollout

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const picture = "../../docs/states/rollout.md"

// TestPictureIsOfTheTables keeps docs/states/rollout.md what the tables say;
// `go test ./coordinator/rollout -rewrite` writes it anew.
func TestPictureIsOfTheTables(t *testing.T) {
	t.Parallel()
	want := "# States of a rollout\n\nGenerated from the tables in `coordinator/rollout/state.go` by its tests; do not edit.\n\n## Rollout\n\n" +
		draw(states[:], edges[:]) + "\n## Stage\n\nEach stage of a running rollout has a state of its own.\n\n" + draw(stageStates[:], stageEdges[:])
	if f := flag.Lookup("rewrite"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(picture, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("the picture is not of the tables; run with -rewrite: %s", diff)
	}
}

func draw[S interface {
	~uint8
	fmt.Stringer
}](infos []stateInfo, table []edge[S]) string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n")
	fmt.Fprintf(&b, "    [*] --> %s\n", infos[0].name)
	for _, e := range table {
		fmt.Fprintf(&b, "    %v --> %v: %s\n", e.from, e.to, e.when)
	}
	for _, s := range infos {
		if s.terminal {
			fmt.Fprintf(&b, "    %s --> [*]\n", s.name)
		}
	}
	b.WriteString("```\n\n| state | meaning | deadline | terminal |\n|---|---|---|---|\n")
	for _, s := range infos {
		terminal := ""
		if s.terminal {
			terminal = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.name, s.says, s.deadline, terminal)
	}
	b.WriteString("\n| from | to | when |\n|---|---|---|\n")
	for _, e := range table {
		fmt.Fprintf(&b, "| `%v` | `%v` | %s |\n", e.from, e.to, e.when)
	}
	return b.String()
}

func TestTablesAreWhole(t *testing.T) {
	t.Parallel()
	whole(t, states[:], edges[:])
	whole(t, stageStates[:], stageEdges[:])
}

func whole[S interface {
	~uint8
	fmt.Stringer
}](t *testing.T, infos []stateInfo, table []edge[S]) {
	for i, s := range infos {
		in, out := i == 0, false
		for _, e := range table {
			in = in || int(e.to) == i
			out = out || int(e.from) == i
		}
		if s.name == "" || s.says == "" || !in || out == s.terminal {
			t.Errorf("%+v: entered %v, left %v", s, in, out)
		}
		if s.name != fmt.Sprint(S(i)) {
			t.Errorf("%s prints as %v", s.name, S(i))
		}
	}
}

func TestStateText(t *testing.T) {
	t.Parallel()
	for i := range states {
		var s State
		if err := s.UnmarshalText([]byte(State(i).String())); err != nil || s != State(i) {
			t.Errorf("%v reads as %v: %v", State(i), s, err)
		}
	}
	for i := range stageStates {
		var s StageState
		if err := s.UnmarshalText([]byte(StageState(i).String())); err != nil || s != StageState(i) {
			t.Errorf("%v reads as %v: %v", StageState(i), s, err)
		}
	}
	var s State
	if err := s.UnmarshalText([]byte("Sleeping")); err == nil {
		t.Error("Sleeping is a state")
	}
}
