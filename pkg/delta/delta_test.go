package delta_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/delta"
)

// Whatever goes in comes out, with and without a base.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	enc, dec := delta.NewEncoder(), delta.NewDecoder()
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		var base []byte
		if rapid.Bool().Draw(t, "based") {
			base = bytes.Clone(plain)
		}
		packed := enc.Encode(nil, plain, base)
		got := make([]byte, len(plain))
		if err := dec.Decode(got, packed, base); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("decode: %v", err)
		}
	})
}
