package artifact_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/artifact"
)

func drawRegions(t *rapid.T, size, baseSize int64) []artifact.Region {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) artifact.Region {
		return artifact.Region{
			New: rapid.Int64Range(-5, size+5).Draw(t, "new"), Base: rapid.Int64Range(-5, baseSize+5).Draw(t, "base"),
			Length: rapid.Int64Range(-1, 40).Draw(t, "length"),
		}
	}), 0, 12).Draw(t, "regions")
}

// at is the base byte that regions lay beside byte n, -1 where there is none.
func at(rs []artifact.Region, n int64) int64 {
	for _, r := range rs {
		if r.New <= n && n < r.New+r.Length {
			return r.Base + n - r.New
		}
	}
	return -1
}

// However regions were drawn up, their normal form says the same wherever both
// files have bytes, is its own normal form, and fits into an index.
func TestNormalRegions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size, baseSize := rapid.Int64Range(1, 200).Draw(t, "size"), rapid.Int64Range(1, 200).Draw(t, "base size")
		drawn := drawRegions(t, size, baseSize)
		rs := artifact.Normal(drawn, size, baseSize)
		if diff := cmp.Diff(rs, artifact.Normal(rs, size, baseSize)); diff != "" {
			t.Fatalf("not its own normal form: %s", diff)
		}
		x := deltaIndex()
		x.Size, x.BaseSize, x.Regions = size, baseSize, rs
		x.FrameSize, x.Frames = size, []artifact.Packed{{Length: size, Codec: artifact.Plain}}
		if got, err := artifact.ParseIndex(x.Encode()); err != nil || !slices.Equal(got.Regions, rs) {
			t.Fatalf("no index takes %v: %v", rs, err)
		}
		for n := range size {
			b := at(rs, n)
			if b >= baseSize {
				t.Fatalf("byte %d is laid beside %d of %d", n, b, baseSize)
			}
			if b >= 0 && !slices.ContainsFunc(drawn, func(r artifact.Region) bool { return at([]artifact.Region{r}, n) == b }) {
				t.Fatalf("byte %d is laid beside %d, which nobody said", n, b)
			}
		}
	})
}

// Frame by frame, the spans say what the regions say.
func TestBaseSpansAreTheRegions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size, baseSize := rapid.Int64Range(1, 200).Draw(t, "size"), rapid.Int64Range(1, 200).Draw(t, "base size")
		x := artifact.Index{Kind: artifact.Delta, Size: size, BaseSize: baseSize, FrameSize: rapid.Int64Range(1, 64).Draw(t, "frame")}
		x.Regions = artifact.Normal(drawRegions(t, size, baseSize), size, baseSize)
		for i := range int((size + x.FrameSize - 1) / x.FrameSize) {
			x.Frames = append(x.Frames, artifact.Packed{Codec: artifact.TensorBase})
			sp := x.BaseSpans(i)
			for n := range x.FrameLen(i) {
				if a, b := at(sp, n), at(x.Regions, int64(i)*x.FrameSize+n); a != b {
					t.Fatalf("byte %d of frame %d: %d and %d", n, i, a, b)
				}
			}
			for _, s := range sp {
				if s.New < 0 || s.Length < 1 || s.New+s.Length > x.FrameLen(i) {
					t.Fatalf("span %v in a frame of %d", s, x.FrameLen(i))
				}
			}
			x.Frames[i].Codec = artifact.Tensor
			if x.BaseSpans(i) != nil {
				t.Fatal("a frame that stands alone needs the base")
			}
		}
	})
}
