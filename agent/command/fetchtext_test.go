package command

import (
	"testing"

	"github.com/modelfleet/modelfleet/agent/local"
)

// What a fetch waits for, and what goes wrong with it, are told apart.
func TestAFetchInWords(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]local.Model{
		"1.0 MiB of 4.0 MiB, 1.0 KiB/s":                                    {BytesDone: 1 << 20, BytesTotal: 4 << 20, Rate: 1 << 10},
		"0 B of 4.0 MiB; waiting: its download window":                     {BytesTotal: 4 << 20, Waits: "its download window"},
		"0 B of 4.0 MiB; retrying after: read range files/x/raw: 503 down": {BytesTotal: 4 << 20, Trouble: "read range files/x/raw: 503 down"},
	} {
		if got := fetchText(m); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A model that is held back says why next to it.
func TestAHeldModelInWords(t *testing.T) {
	t.Parallel()
	why := "detector@3.0.0 refused: rule listed: role publisher-vision version 4 does not list it"
	if got := asides(local.Model{Held: why}); len(got) != 1 || got[0] != "waiting for another release: "+why {
		t.Errorf("got %q", got)
	}
}
