package telemetry_test

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func sketchOf(vs ...uint64) *telemetry.Sketch {
	s := &telemetry.Sketch{}
	for _, v := range vs {
		s.Add(v)
	}
	return s
}

func values() *rapid.Generator[[]uint64] {
	return rapid.SliceOfN(rapid.OneOf(rapid.Uint64Range(0, 64), rapid.Uint64Range(0, 100_000), rapid.Uint64()), 1, 40)
}

// Every value lies in its bucket, buckets touch, and none is wider than a
// sixteenth of its least value.
func TestBucketsTileTheIntegers(t *testing.T) {
	t.Parallel()
	last := telemetry.Bucket(math.MaxUint64)
	next := uint64(0)
	for i := 0; i <= last; i++ {
		lo, hi := telemetry.BucketBounds(i)
		if lo != next || hi < lo || telemetry.Bucket(lo) != i || telemetry.Bucket(hi) != i {
			t.Fatalf("bucket %d is [%d, %d], want it to begin at %d", i, lo, hi, next)
		}
		if hi-lo > lo/16 {
			t.Fatalf("bucket %d is [%d, %d]: too wide", i, lo, hi)
		}
		next = hi + 1
	}
	if next != 0 {
		t.Errorf("the last bucket ends at %d", next-1)
	}
}

// A quantile is off by at most 1/32 of the value that has its rank.
func TestQuantileIsNear(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		vs := values().Draw(rt, "values")
		q := rapid.Float64Range(0, 1).Draw(rt, "q")
		got := sketchOf(vs...).Quantile(q)
		slices.Sort(vs)
		rank := max(1, int(math.Ceil(q*float64(len(vs)))))
		want := vs[min(rank, len(vs))-1]
		diff := max(got, want) - min(got, want)
		if float64(diff) > float64(want)/32+1 {
			rt.Fatalf("quantile %g of %v is %d, want about %d", q, vs, got, want)
		}
	})
}

// Above is exact at bucket edges.
func TestAboveIsExactAtEdges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		vs := values().Draw(rt, "values")
		_, edge := telemetry.BucketBounds(telemetry.Bucket(rapid.SampledFrom(vs).Draw(rt, "edge")))
		want := uint64(0)
		for _, v := range vs {
			if v > edge {
				want++
			}
		}
		if got := sketchOf(vs...).Above(edge); got != want {
			rt.Fatalf("above %d: %d, want %d", edge, got, want)
		}
	})
}

// Merging is commutative and associative and the same as having counted
// everything in one sketch, byte for byte.
func TestSketchMergeIsLawful(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		a, b, c := values().Draw(rt, "a"), values().Draw(rt, "b"), values().Draw(rt, "c")
		want := sketchOf(slices.Concat(a, b, c)...).Append(nil)
		left := sketchOf(a...)
		left.Merge(sketchOf(b...))
		left.Merge(sketchOf(c...))
		right := sketchOf(c...)
		bc := sketchOf(b...)
		right.Merge(bc)
		right.Merge(sketchOf(a...))
		if !bytes.Equal(left.Append(nil), want) || !bytes.Equal(right.Append(nil), want) {
			rt.Fatal("the merge differs from the whole")
		}
		got, err := telemetry.ParseSketch(want)
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(got.Append(nil), want) || got.Count() != left.Count() {
			rt.Fatal("parsing changed the sketch")
		}
	})
}

func FuzzSketch(f *testing.F) {
	f.Add(sketchOf(1, 2, 3, 1000, 1000).Append(nil))
	f.Add([]byte{4, 0x80, 0x00})
	f.Add([]byte{4, 0x02, 0x01})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := telemetry.ParseSketch(b)
		if err == nil && !bytes.Equal(s.Append(nil), b) {
			t.Errorf("%x encodes to %x", b, s.Append(nil))
		}
	})
}

func FuzzRow(f *testing.F) {
	msg, err := exampleRow(idOf(f, keyOf(f, 1))).Sign(fleetName, keyOf(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Add(msg[:len(msg)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		row, err := telemetry.ParseRow(b)
		if err != nil {
			return
		}
		again, err := row.Sign(fleetName, keyOf(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		body := len(b) - telemetry.SignatureSize
		if !bytes.Equal(again[:body], b[:body]) || len(again) != len(b) {
			t.Errorf("%x encodes to %x", b[:body], again)
		}
	})
}

func FuzzWindow(f *testing.F) {
	msg, err := exampleWindow(idOf(f, keyOf(f, 1))).Sign(fleetName, keyOf(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := telemetry.ParseWindow(b)
		if err != nil {
			return
		}
		again, err := w.Sign(fleetName, keyOf(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		body := len(b) - telemetry.SignatureSize
		if !bytes.Equal(again[:body], b[:body]) || len(again) != len(b) {
			t.Errorf("%x encodes to %x", b[:body], again)
		}
	})
}

func FuzzBatch(f *testing.F) {
	codec, err := telemetry.NewCodec()
	if err != nil {
		f.Fatal(err)
	}
	good, err := codec.Encode([][]byte{{1, 2, 3}, []byte("another message")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-2])
	f.Add([]byte{3, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, err := codec.Decode(b)
		if err != nil {
			return
		}
		again, err := codec.Encode(msgs)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := codec.Decode(again)
		if err != nil || !slices.EqualFunc(msgs, twice, bytes.Equal) {
			t.Errorf("a batch changed on the way: %v", err)
		}
	})
}
