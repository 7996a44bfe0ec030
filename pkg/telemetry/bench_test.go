package telemetry_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func BenchmarkSign(b *testing.B) {
	key := keyOf(b, 1)
	row := exampleRow(idOf(b, key))
	b.ReportAllocs()
	for b.Loop() {
		msg, err := row.Sign(fleetName, key)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(msg)), "row-bytes")
	}
}

func BenchmarkVerify(b *testing.B) {
	key := keyOf(b, 1)
	msg, err := exampleRow(idOf(b, key)).Sign(fleetName, key)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := telemetry.VerifyRow(msg, fleetName, &key.PublicKey); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	key := keyOf(b, 1)
	msg, err := exampleRow(idOf(b, key)).Sign(fleetName, key)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := telemetry.ParseRow(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSketchAdd(b *testing.B) {
	var s telemetry.Sketch
	v := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		v = v*6364136223846793005 + 1442695040888963407
		s.Add(v >> 44)
	}
}

func BenchmarkObserve(b *testing.B) {
	r, err := telemetry.NewRecorder(telemetry.RecorderOptions{Epoch: 1})
	if err != nil {
		b.Fatal(err)
	}
	if err := r.SetModel("m", start, telemetry.ModelState{Running: v1}); err != nil {
		b.Fatal(err)
	}
	now := start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		if err := r.Observe("m", now, telemetry.Observation{Latency: time.Millisecond}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInsert(b *testing.B) {
	tb := telemetry.NewTable()
	msgs := make([]telemetry.Message, 1024)
	for i := range msgs {
		row := exampleRow(keyID(byte(i % 64)))
		row.Seq = uint64(i + 1)
		msgs[i] = telemetry.Message{Row: &row, Raw: []byte{byte(i), byte(i >> 8)}}
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		tb.Insert(msgs[i%len(msgs)])
		i++
	}
}

func BenchmarkBatch64(b *testing.B) {
	codec, err := telemetry.NewCodec()
	if err != nil {
		b.Fatal(err)
	}
	var msgs [][]byte
	for i := range 64 {
		key := keyOf(b, i)
		row := exampleRow(idOf(b, key))
		row.Seq += uint64(i)
		msg, err := row.Sign(fleetName, key)
		if err != nil {
			b.Fatal(err)
		}
		msgs = append(msgs, msg)
	}
	b.ReportAllocs()
	for b.Loop() {
		out, err := codec.Encode(msgs)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(out))/64, "batch-bytes/row")
	}
}
