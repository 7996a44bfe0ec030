package telemetry_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// vectors is testdata/vectors.json: what other implementations check
// themselves against. docs/formats/report.md explains it.
type vectors struct {
	Comment    string
	PrivateKey string // d, hex
	KeyID      string
	Fleet      string
	Row        telemetry.Row
	RowMessage string // hex, with a signature by the key
	Window     struct {
		telemetry.WindowKey
		Values []uint64
	}
	WindowMessage string
	Sketches      []sketchVector
	Refused       []refusedVector
}

type sketchVector struct {
	Values        []uint64
	Encoded       string
	P50, P95, P99 uint64
}

type refusedVector struct {
	Why     string
	Message string
}

func sketchVectors() []sketchVector {
	var out []sketchVector
	for _, vs := range [][]uint64{{0}, {15, 16, 17}, {31, 32, 33, 34}, {1000, 1000, 1000, 20000}, {1 << 63, 1<<64 - 1}} {
		s := sketchOf(vs...)
		out = append(out, sketchVector{vs, hex.EncodeToString(s.Append(nil)), s.Quantile(.5), s.Quantile(.95), s.Quantile(.99)})
	}
	return out
}

// To make the vectors anew, after a deliberate change of the format, set
// MODELFLEET_REWRITE=1.
func rewriteVectors(t *testing.T, path string) {
	key := keyOf(t, 1)
	d, err := key.Bytes()
	must(t, err)
	row, window := exampleRow(idOf(t, key)), exampleWindow(idOf(t, key))
	rowMsg, err := row.Sign(fleetName, key)
	must(t, err)
	windowMsg, err := window.Sign(fleetName, key)
	must(t, err)
	v := vectors{
		Comment:    "signatures are random: check that yours encodes the same body and that these verify",
		PrivateKey: hex.EncodeToString(d), KeyID: row.Key.String(), Fleet: fleetName,
		Row: row, RowMessage: hex.EncodeToString(rowMsg), WindowMessage: hex.EncodeToString(windowMsg), Sketches: sketchVectors(),
	}
	v.Window.WindowKey = window.WindowKey
	v.Window.Values = []uint64{0, 15, 16, 17, 31, 32, 33, 1000, 20000, 20001, 20002, 60_000_000}
	flipped, longSeq := bytes.Clone(rowMsg), bytes.Clone(rowMsg)
	flipped[12] ^= 1
	longSeq = slices.Insert(longSeq, 13, 0)
	longSeq[12] |= 0x80
	v.Refused = []refusedVector{
		{"the signature has the higher s", hex.EncodeToString(otherSignature(rowMsg))},
		{"one bit of the body differs", hex.EncodeToString(flipped)},
		{"a number is written longer than it needs", hex.EncodeToString(longSeq)},
		{"a byte follows the signature", hex.EncodeToString(append(bytes.Clone(rowMsg), 0))},
		{"a window is no row", hex.EncodeToString(windowMsg)},
	}
	data, err := json.MarshalIndent(v, "", "  ")
	must(t, err)
	must(t, os.WriteFile(path, append(data, '\n'), 0o644))
}

// The bytes on the wire are those that the vectors say.
func TestVectors(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "vectors.json")
	if os.Getenv("MODELFLEET_REWRITE") != "" {
		rewriteVectors(t, path)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	var v vectors
	must(t, json.Unmarshal(data, &v))
	key := keyOf(t, 1)
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		must(t, err)
		return b
	}
	sameBody := func(what string, got []byte, err error, want []byte) {
		t.Helper()
		must(t, err)
		if n := len(want) - telemetry.SignatureSize; !bytes.Equal(got[:n], want[:n]) {
			t.Errorf("%s is %x, want %x", what, got[:n], want[:n])
		}
	}
	msg := unhex(v.RowMessage)
	got, err := v.Row.Sign(v.Fleet, key)
	sameBody("row", got, err, msg)
	row, err := telemetry.VerifyRow(msg, v.Fleet, &key.PublicKey)
	must(t, err)
	if d := cmp.Diff(v.Row, row); d != "" {
		t.Error(d)
	}
	w := telemetry.Window{WindowKey: v.Window.WindowKey, Sketch: sketchOf(v.Window.Values...)}
	got, err = w.Sign(v.Fleet, key)
	sameBody("window", got, err, unhex(v.WindowMessage))
	_, err = telemetry.VerifyWindow(unhex(v.WindowMessage), v.Fleet, &key.PublicKey)
	must(t, err)
	if d := cmp.Diff(v.Sketches, sketchVectors()); d != "" {
		t.Error(d)
	}
	for _, r := range v.Refused {
		if _, err := telemetry.VerifyRow(unhex(r.Message), v.Fleet, &key.PublicKey); err == nil {
			t.Errorf("taken although %s", r.Why)
		}
	}
}
