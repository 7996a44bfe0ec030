package oms_test

import (
	"testing"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// What two readers may understand differently is refused, however a key is
// spelt: encoding/json takes the long s for an s and the Kelvin sign for a k.
func TestStrictJSONHasOneReading(t *testing.T) {
	t.Parallel()
	var v struct {
		Task string `json:"task"`
		Next *struct {
			Task string `json:"task"`
		} `json:"next"`
	}
	for _, good := range []string{`{"task":"a"}`, `{"task":"a","next":{"task":"b"}}`} {
		if err := oms.DecodeStrict([]byte(good), &v); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`{"task":"a","task":"b"}`, `{"task":"a","Task":"b"}`, `{"task":"a","ta\u017fk":"b"}`, `{"task":"a","tas\u212a":"b"}`,
		`{"TASK":"a"}`, `{"next":{"Task":"a"}}`, `{"next":{"task":"a","TASK":"b"}}`, `{"task":"a","more":1}`, `{"task":"a"}{}`, `{"task":"a"} x`, ``, `{`,
	} {
		if err := oms.DecodeStrict([]byte(bad), &v); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}
