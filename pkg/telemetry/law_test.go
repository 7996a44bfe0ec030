package telemetry_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

const fleetName = "acme"

// keyOf is a fixed key a number.
func keyOf(t testing.TB, i int) *ecdsa.PrivateKey {
	t.Helper()
	d := sha256.Sum256(fmt.Appendf(nil, "modelfleet test key %d", i))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func idOf(t testing.TB, k *ecdsa.PrivateKey) telemetry.KeyID {
	t.Helper()
	id, err := telemetry.KeyIDOf(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func prefixes() *rapid.Generator[telemetry.Prefix] {
	return rapid.Custom(func(t *rapid.T) telemetry.Prefix {
		return telemetry.Prefix{0: rapid.Byte().Draw(t, "prefix")}
	})
}

func someSeries(t *rapid.T, i int) telemetry.Series {
	n := func(name string, most uint64) uint64 { return rapid.Uint64Range(0, most).Draw(t, name) }
	requests := n("requests", 1<<40)
	windows := n("windows", requests)
	s := telemetry.Series{
		SeriesKey: telemetry.SeriesKey{
			Release: prefixes().Draw(t, "release"), Rollout: prefixes().Draw(t, "rollout"),
			Arm: fleet.Arm(n("arm", 2)),
		},
		Since: int64(n("since", 1<<34)), Alarm: rapid.Bool().Draw(t, "alarm"),
		Counters: telemetry.Counters{
			Requests: requests, Errors: n("errors", requests), Windows: windows, ErrWindows: n("errWindows", windows),
			Exceed: [3]uint64{n("e0", requests), n("e1", requests), n("e2", requests)},
			Right:  n("right", 1<<30), Wrong: n("wrong", 1<<30), Fatal: n("fatal", 9),
		},
	}
	s.Release[7] = byte(i + 1) // keys differ
	return s
}

func someFetched(t *rapid.T) telemetry.Fetched {
	n := rapid.OneOf(rapid.Just[uint64](0), rapid.Uint64Range(0, 1<<48))
	return telemetry.Fetched{Copy: n.Draw(t, "copy"), Delta: n.Draw(t, "delta"), Peer: n.Draw(t, "peer"), Bucket: n.Draw(t, "bucket")}
}

func someRow(t *rapid.T, key telemetry.KeyID) telemetry.Row {
	n := func(name string, most uint64) uint64 { return rapid.Uint64Range(0, most).Draw(t, name) }
	r := telemetry.Row{
		Key: key, Epoch: 1 + n("epoch", 1<<20), Seq: 1 + n("seq", 1<<40), Time: int64(n("time", 1<<34)),
		Directive: n("directive", 1<<60), Freshness: telemetry.Freshness(n("freshness", 2)), RSS: n("rss", 1<<24),
		Agent: rapid.StringMatching(`[!-~]{0,24}`).Draw(t, "agent"),
	}
	if rapid.Bool().Draw(t, "delivered") {
		r.Delivery = telemetry.Delivery{Fetched: someFetched(t), Wire: n("wire", 1<<48), Liars: n("liars", 3), Damaged: n("damaged", 3)}
		if r.Delivery.Liars > 0 {
			r.Delivery.Liar = prefixes().Draw(t, "liar")
		}
	}
	for i := range n("models", 3) {
		m := telemetry.Model{
			Running: prefixes().Draw(t, "running"), Target: prefixes().Draw(t, "target"), Rollout: prefixes().Draw(t, "rollout"),
			Arm: fleet.Arm(n("arm", 2)), Phase: fleet.Phase(n("phase", 11)), Failure: fleet.FailureClass(n("class", 3)),
			Code: telemetry.FailureCode(n("code", 255)), Failing: int64(n("failing", 1<<34)),
			Fetched: someFetched(t), Total: n("total", 1<<48),
		}
		m.Model[0] = byte(i)
		for j := range n("series", telemetry.MaxSeries) {
			m.Series = append(m.Series, someSeries(t, int(j)))
		}
		r.Models = append(r.Models, m)
	}
	return r
}

// A row says the same after its journey, and only to those who know the key
// and the fleet.
func TestRowSurvivesItsJourney(t *testing.T) {
	t.Parallel()
	key, other := keyOf(t, 1), keyOf(t, 2)
	rapid.Check(t, func(rt *rapid.T) {
		row := someRow(rt, idOf(t, key))
		msg, err := row.Sign(fleetName, key)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := telemetry.VerifyRow(msg, fleetName, &key.PublicKey)
		if err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(row, got); d != "" {
			rt.Fatal(d)
		}
		if _, err := telemetry.VerifyRow(msg, "other", &key.PublicKey); err == nil {
			rt.Fatal("another fleet took it")
		}
		if _, err := telemetry.VerifyRow(msg, fleetName, &other.PublicKey); err == nil {
			rt.Fatal("another key took it")
		}
	})
}

// No change of any bit is taken, nor the other signature that ECDSA would allow.
func TestRowIsNotMalleable(t *testing.T) {
	t.Parallel()
	key := keyOf(t, 1)
	row := exampleRow(idOf(t, key))
	msg, err := row.Sign(fleetName, key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(msg) * 8 {
		bad := bytes.Clone(msg)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := telemetry.VerifyRow(bad, fleetName, &key.PublicKey); err == nil {
			t.Errorf("a row with bit %d flipped was taken", i)
		}
	}
	for _, bad := range [][]byte{nil, msg[:10], msg[:len(msg)-1], append(bytes.Clone(msg), 0), otherSignature(msg)} {
		if _, err := telemetry.VerifyRow(bad, fleetName, &key.PublicKey); err == nil {
			t.Errorf("%d bytes were taken", len(bad))
		}
	}
}

// otherSignature replaces s by n-s, which a lax verifier would take as well.
func otherSignature(msg []byte) []byte {
	out := bytes.Clone(msg)
	s := out[len(out)-32:]
	n := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	borrow := 0
	for i := 31; i >= 0; i-- {
		d := int(n[i]) - int(s[i]) - borrow
		borrow = 0
		if d < 0 {
			d, borrow = d+256, 1
		}
		s[i] = byte(d)
	}
	return out
}

// A window is bound to its member, its fleet and its domain.
func TestWindowSurvivesItsJourney(t *testing.T) {
	t.Parallel()
	key := keyOf(t, 1)
	w := exampleWindow(idOf(t, key))
	msg, err := w.Sign(fleetName, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := telemetry.VerifyWindow(msg, fleetName, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got.WindowKey != w.WindowKey || got.Sketch.Count() != w.Sketch.Count() {
		t.Errorf("got %+v", got)
	}
	if _, err := telemetry.VerifyWindow(msg, "other", &key.PublicKey); err == nil {
		t.Error("another fleet took it")
	}
	for i := range len(msg) * 8 {
		bad := bytes.Clone(msg)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := telemetry.VerifyWindow(bad, fleetName, &key.PublicKey); err == nil {
			t.Errorf("a window with bit %d flipped was taken", i)
		}
	}
}

func exampleRow(key telemetry.KeyID) telemetry.Row {
	v1, v2 := telemetry.Prefix{0xa1, 1, 2, 3, 4, 5, 6, 7}, telemetry.Prefix{0xb2, 1, 2, 3, 4, 5, 6, 7}
	rollout := telemetry.RolloutPrefix("r-20260101-1")
	return telemetry.Row{
		Key: key, Epoch: 7, Seq: 1234, Time: 1767225600, Directive: 42, Freshness: telemetry.Fresh, RSS: 11800, Agent: "0.1.0",
		Delivery: telemetry.Delivery{Fetched: telemetry.Fetched{Copy: 4 << 20, Peer: 8 << 20, Bucket: 6 << 20}, Wire: 12_345_678},
		Log:      telemetry.LogHead{Size: 900, Root: [16]byte{0xc0, 0xff, 0xee}},
		Models: []telemetry.Model{{
			Model: telemetry.ModelPrefix("detector"), Running: v2, Target: v2, Rollout: rollout,
			Arm: fleet.Exposed, Phase: fleet.Soaking,
			Fetched: telemetry.Fetched{Copy: 4 << 20, Peer: 8 << 20, Bucket: 6 << 20}, Total: 18 << 20,
			Series: []telemetry.Series{
				{SeriesKey: telemetry.SeriesKey{Release: v1}, Since: 1767132000, Counters: telemetry.Counters{
					Requests: 93600, Errors: 102, Windows: 9360, ErrWindows: 98, Right: 45210, Wrong: 1590,
				}},
				{SeriesKey: telemetry.SeriesKey{Release: v2, Rollout: rollout, Arm: fleet.Exposed}, Since: 1767225480, Counters: telemetry.Counters{
					Requests: 120, Errors: 1, Windows: 12, ErrWindows: 1, Exceed: [3]uint64{61, 7, 1}, Right: 58, Wrong: 2,
				}},
			},
		}},
	}
}

func exampleWindow(key telemetry.KeyID) telemetry.Window {
	s := &telemetry.Sketch{}
	for _, v := range []uint64{0, 15, 16, 17, 31, 32, 33, 1000, 20000, 20001, 20002, 60_000_000} {
		s.Add(v)
	}
	return telemetry.Window{
		WindowKey: telemetry.WindowKey{
			Key: key, Epoch: 7, Index: 29453760, Width: 60,
			SeriesKey: telemetry.SeriesKey{Release: telemetry.Prefix{0xb2, 1, 2, 3, 4, 5, 6, 7}, Rollout: telemetry.RolloutPrefix("r-20260101-1"), Arm: fleet.Exposed},
			Metric:    telemetry.Latency,
		},
		Sketch: s,
	}
}
