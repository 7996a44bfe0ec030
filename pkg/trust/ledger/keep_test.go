package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// A checkpoint that was kept is found again in the log, by whichever key the log had
// then; of any other it is said what is wrong.
func TestAKeptCheckpointIsOfTheLogOrItIsSaidWhyNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	tree := &w.tree
	now := w.checkpoint(20)
	signed := func(c ledger.Checkpoint, s note.Signer) string { return must(c.Sign(s))(t) }
	pair := func(fleet string) (note.Signer, note.Verifier) {
		private, public, err := ledger.NewKey(fleet)
		return must(note.NewSigner(must(private, err)(t)))(t), must(ledger.ParseKey(public))(t)
	}
	former, formerKey := pair("plant")
	stranger, strangerKey := pair("plant")
	other, _ := pair("orchard")
	keys := ledger.NewKeyring(w.key)
	keys.Add(formerKey)
	keys.Add(formerKey)
	changed := signed(w.checkpoint(7), former)
	changed = strings.Replace(changed, "\n7\n", "\n8\n", 1)
	both := string(must(note.Sign(&note.Note{Text: must(note.Open([]byte(signed(w.checkpoint(9), w.signer)), note.VerifierList(w.key)))(t).Text}, w.signer, former))(t))
	orchard := ledger.Checkpoint{Origin: "modelfleet/orchard", Size: 5}
	fork := w.checkpoint(7)
	fork.Root[0] ^= 1
	longer := now
	longer.Size++
	for name, c := range map[string]struct {
		note string
		kind fault.Kind
		want string // in the error; "" for none
	}{
		"by the log's key":       {signed(w.checkpoint(7), w.signer), 0, ""},
		"by the key before":      {signed(w.checkpoint(7), former), 0, ""},
		"by both":                {both, 0, ""},
		"the newest":             {signed(now, w.signer), 0, ""},
		"of the empty log":       {signed(w.checkpoint(0), former), 0, ""},
		"by a stranger":          {signed(w.checkpoint(7), stranger), fault.Untrusted, fmt.Sprintf("%08x", strangerKey.KeyHash())},
		"of another log":         {signed(orchard, other), fault.Untrusted, "modelfleet/orchard"},
		"of another, by our key": {signed(orchard, w.signer), fault.Untrusted, "modelfleet/orchard"},
		"changed":                {changed, fault.Untrusted, "changed after it was signed"},
		"another history":        {signed(fork, former), fault.Untrusted, "made anew"},
		"a longer log":           {signed(longer, w.signer), fault.Untrusted, "taken out"},
		"no checkpoint":          {"hello", fault.Invalid, "not a signed checkpoint"},
		"empty":                  {"", fault.Invalid, "not a signed checkpoint"},
	} {
		got, err := keys.Kept(tree, now.Size, c.note)
		if c.want == "" {
			if err != nil || got.Size > 20 {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			continue
		}
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || fault.Hint(err) == "" {
			t.Errorf("%s: %v (hint %q), want kind %v and %q", name, err, fault.Hint(err), c.kind, c.want)
		}
	}
}

// An entry about a key is believed as much as the log is, and is a key's.
func TestAKeyringLearnsFromEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	_, public, err := ledger.NewKey("plant")
	if err != nil {
		t.Fatal(err)
	}
	keys := ledger.NewKeyring(w.key)
	for detail, good := range map[string]bool{`{"vkey":"` + public + `"}`: true, `{"vkey":"x"}`: false, `{"vkey":1}`: false, `{}`: false, `{"vkey":"` + public + `","more":1}`: false} {
		if err := keys.Learn(ledger.Entry{Action: ledger.KeyTaken, Detail: []byte(detail)}); (err == nil) != good {
			t.Errorf("%s: %v", detail, err)
		}
	}
	if err := keys.Learn(entry(3)); err != nil {
		t.Errorf("an entry about something else: %v", err)
	}
}
