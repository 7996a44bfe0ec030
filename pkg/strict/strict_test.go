package strict_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/strict"
)

// Common is embedded.
type Common struct {
	Group string `json:"group"`
	At    string `json:"at"`
}

type doc struct {
	Common
	At    time.Time       `json:"at,omitzero"` // hides the embedded one
	Next  *doc            `json:"next,omitempty"`
	List  []doc           `json:"list,omitempty"`
	Named map[string]*doc `json:"named,omitempty"`
	Any   any             `json:"any,omitempty"`
	Raw   json.RawMessage `json:"raw,omitempty"`
	Plain int
	Not   int `json:"-"`
}

func TestNamesAreHeldToTheLetter(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		`{}`, `null`, `{"group":"a\"}","Plain":-1}`,
		`{"at":"2026-01-02T03:04:05Z"}`, `{"next":{"next":null,"list":[{},{"group":"x"} , {"list":[]}]}}`,
		`{"named":{"Group":{"group":"b"},"GROUP":{},"":null}}`, `{"any":{"GROUP":1,"group":[{"X":2,"x":true}]}}`, `{"raw":{"A":1,"a":{}},"group":"c"}`,
		"\n{\t\"list\" : [ ] ,\r\n\"group\":\"\\\\\" }\n",
	} {
		var v, w doc
		if err := strict.Decode([]byte(good), &v); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		if err := json.Unmarshal([]byte(good), &w); err != nil || !cmp.Equal(v, w) {
			t.Errorf("%s is read another way: %v %s", good, err, cmp.Diff(w, v))
		}
	}
	for bad, want := range map[string]string{
		`{"GROUP":"a"}`:                    `unknown field "GROUP": it is spelt "group"`,
		`{"next":{"Group":"a"}}`:           `unknown field "Group": it is spelt "group"`,
		`{"list":[{},{"lisT":[]}]}`:        `unknown field "lisT": it is spelt "list"`,
		`{"named":{"a":{"NAMED":{}}}}`:     `unknown field "NAMED": it is spelt "named"`,
		`{"plain":1}`:                      `unknown field "plain": it is spelt "Plain"`,
		`{"gr\u006fup":"a"}`:               `unknown field "gr\\u006fup"`,
		`{"group":"a","group":"b"}`:        `field "group" stands twice`,
		`{"list":[{"Plain":1,"Plain":1}]}`: `field "Plain" stands twice`,
		`{"more":1}`:                       `json: unknown field "more"`,
		`{"Not":1}`:                        `json: unknown field "Not"`,
		`{} {}`:                            `bytes after the end of the JSON value`,
	} {
		var v doc
		if err := strict.Decode([]byte(bad), &v); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
}

// What is accepted encoding/json accepts, and understands the same when it is
// held to the letter; nothing makes it panic.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"group":"a","list":[{"next":{}}],"any":[1,"]}",{"a":null}]}`, `{"GROUP":1}`, `[`, `"\`, `{"named":{"x":{"at":"2026-01-02T03:04:05Z"}}} `, `1`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v, w doc
		if err := strict.Decode(data, &v); err != nil {
			return
		}
		if err := json.Unmarshal(data, &w); err != nil || !cmp.Equal(v, w) {
			t.Fatalf("read another way: %v %s", err, cmp.Diff(w, v))
		}
	})
}
