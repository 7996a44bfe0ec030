package artifact_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func fullIndex() artifact.Index {
	return artifact.Index{
		Kind: artifact.Full, File: fleet.DigestOf([]byte("file")), Size: 4096 + 4096 + 10, FrameSize: 4096,
		Frames: []artifact.Packed{
			{Length: 100, Codec: artifact.Zstd, Digest: fleet.DigestOf([]byte("a"))},
			{Length: 4096, Codec: artifact.Plain, Digest: fleet.DigestOf([]byte("b"))},
			{Length: 10, Codec: artifact.Plain, Digest: fleet.DigestOf([]byte("c"))},
		},
	}
}

func rawIndex() artifact.Index {
	x := fullIndex()
	x.Kind, x.FullSize = artifact.Raw, 4206
	x.Frames[0].Length, x.Frames[0].Codec = 4096, artifact.Plain
	return x
}

func emptyIndex() artifact.Index {
	return artifact.Index{File: fleet.DigestOf(nil), FrameSize: artifact.FrameSize}
}

func deltaIndex() artifact.Index {
	x := fullIndex()
	x.Kind, x.Base, x.BaseSize = artifact.Delta, fleet.DigestOf([]byte("base")), 9000
	x.Regions = []artifact.Region{{New: 0, Length: 100, Base: 0}, {New: 108, Length: 8094, Base: 100}}
	x.Frames[0].Codec, x.Frames[0].Length = artifact.TensorBase, 7
	x.Frames[1].Codec, x.Frames[1].Length = artifact.Tensor, 2000
	return x
}

func indexes() []artifact.Index {
	return []artifact.Index{fullIndex(), rawIndex(), emptyIndex(), deltaIndex()}
}

func TestIndexRoundTrips(t *testing.T) {
	t.Parallel()
	for _, x := range indexes() {
		got, err := artifact.ParseIndex(x.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(x, got); diff != "" {
			t.Error(diff)
		}
	}
}

// The bytes are a format that other programs read: they may not drift.
func TestIndexVectors(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/index.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(b))
	if len(lines) != len(indexes()) {
		t.Fatalf("%d vectors", len(lines))
	}
	for i, line := range lines {
		want, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		x := indexes()[i]
		if got := x.Encode(); !bytes.Equal(got, want) {
			t.Errorf("vector %d: encodes to %x", i, got)
		}
	}
}

func TestEveryChangedByteOfAnIndexIsNoticedOrHarmless(t *testing.T) {
	t.Parallel()
	for k, good := range [][]byte{fullIndex().Encode(), deltaIndex().Encode()} {
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 0x81
			x, err := artifact.ParseIndex(b)
			if err == nil && !bytes.Equal(x.Encode(), b) {
				t.Errorf("index %d, byte %d: two forms of one index", k, i)
			}
			if err != nil && !fault.Is(err, fault.Untrusted) {
				t.Errorf("index %d, byte %d: error is %v", k, i, err)
			}
		}
		for n := range good {
			if _, err := artifact.ParseIndex(good[:n]); err == nil {
				t.Errorf("index %d: cut to %d bytes it is still read", k, n)
			}
		}
	}
}

// Regions that lead out of a file, that are not in order or that could be told
// otherwise are refused, and so is a frame whose base nobody names.
func TestRegionsOfAnIndexAreChecked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*artifact.Index){
		"empty":                func(x *artifact.Index) { x.Regions[0].Length = 0 },
		"before the file":      func(x *artifact.Index) { x.Regions[0].New = -1 },
		"before the base":      func(x *artifact.Index) { x.Regions[0].Base = -1 },
		"beyond the file":      func(x *artifact.Index) { x.Regions[1].Length = 8095 },
		"beyond the base":      func(x *artifact.Index) { x.Regions[1].Base = 907 },
		"endless":              func(x *artifact.Index) { x.Regions[1].Length = 1<<63 - 1 },
		"overlapping":          func(x *artifact.Index) { x.Regions[1].New = 99 },
		"continued":            func(x *artifact.Index) { x.Regions[1] = artifact.Region{New: 100, Length: 1, Base: 100} },
		"none":                 func(x *artifact.Index) { x.Regions = nil },
		"base of no size":      func(x *artifact.Index) { x.BaseSize = -1 },
		"a base in a full one": func(x *artifact.Index) { x.Kind = artifact.Full },
		"too long a frame":     func(x *artifact.Index) { x.Frames[0].Length = 4096 },
	} {
		x := deltaIndex()
		change(&x)
		if _, err := artifact.ParseIndex(x.Encode()); !fault.Is(err, fault.Untrusted) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	for _, x := range indexes() {
		f.Add(x.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := artifact.ParseIndex(b)
		if err != nil {
			return
		}
		if !bytes.Equal(x.Encode(), b) {
			t.Fatal("two forms of one index")
		}
		var sum int64
		for i, fr := range x.Frames {
			if n := x.FrameLen(i); n < 1 || n > artifact.MaxFrame || fr.Length > n {
				t.Fatalf("frame %d has %d bytes packed into %d", i, n, fr.Length)
			}
			sum += x.FrameLen(i)
			for _, s := range x.BaseSpans(i) {
				if s.New < 0 || s.Base < 0 || s.Length < 1 || s.New+s.Length > x.FrameLen(i) || s.Base+s.Length > x.BaseSize {
					t.Fatalf("frame %d: span %v", i, s)
				}
			}
		}
		if sum != x.Size {
			t.Fatalf("frames of %d bytes for a file of %d", sum, x.Size)
		}
	})
}

// FuzzUnpack: whatever a source delivers, a frame decodes to at most its length
// and nothing is written beyond it.
func FuzzUnpack(f *testing.F) {
	p, err := artifact.NewPacker()
	if err != nil {
		f.Fatal(err)
	}
	plain := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 9}, 100)
	packed, _ := p.Pack(nil, plain)
	f.Add(packed, 800, byte(artifact.Zstd))
	f.Add(packed, 799, byte(artifact.Zstd))
	f.Add(packed, 800, byte(artifact.Tensor))
	against, _ := p.PackAgainst(nil, plain, make([]byte, len(plain)), 0)
	f.Add(against, 800, byte(artifact.TensorBase))
	same, codec := p.PackAgainst(nil, make([]byte, 800), make([]byte, 800), 0)
	f.Add(same, 800, byte(codec))
	f.Add(plain, 800, byte(artifact.Plain))
	f.Add([]byte{}, 0, byte(7))
	u, err := artifact.NewUnpacker(2)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packed []byte, n int, codec byte) {
		if n < 0 || n > 1<<16 {
			return
		}
		buf := bytes.Repeat([]byte{0xee}, n+64)
		err := u.Unpack(buf[:n], packed, make([]byte, n), artifact.Codec(codec))
		if err != nil && !fault.Is(err, fault.Untrusted) {
			t.Fatalf("error is %v", err)
		}
		if !bytes.Equal(buf[n:], bytes.Repeat([]byte{0xee}, 64)) {
			t.Fatal("bytes beyond the frame were written")
		}
	})
}

func TestPackUnpack(t *testing.T) {
	t.Parallel()
	p, err := artifact.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	u, err := artifact.NewUnpacker(1)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	prose := bytes.Repeat([]byte("a model, a fleet and a bucket; "), 1<<15)
	for name, c := range map[string]struct {
		plain []byte
		codec artifact.Codec
	}{
		"weights": {bfloats(1<<19, 1), artifact.Tensor},
		"text":    {prose, artifact.Zstd},
		"noise":   {noise(1<<20, 1), artifact.Plain},
		"tiny":    {[]byte("a"), artifact.Plain},
		"nothing": {nil, artifact.Plain},
	} {
		packed, codec := p.Pack(nil, c.plain)
		if codec != c.codec {
			t.Errorf("%s: codec %d", name, codec)
		}
		got := make([]byte, len(c.plain))
		if err := u.Unpack(got, packed, nil, codec); err != nil || !bytes.Equal(got, c.plain) {
			t.Errorf("%s: other bytes, %v", name, err)
		}
	}
}

// A frame that is packed against a base is never longer than without, whatever
// the two are, and comes back with the base and only with it.
func TestPackingAgainstABaseNeverCosts(t *testing.T) {
	t.Parallel()
	p, err := artifact.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	u, err := artifact.NewUnpacker(1)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	w := bfloats(1<<17, 3)
	for name, c := range map[string]struct {
		plain, base []byte
		based       bool
	}{
		"the same":         {w, w, true},
		"a little trained": {nudged(w), w, true},
		"unrelated":        {w, noise(len(w), 4), false},
		"noise, unrelated": {noise(len(w), 5), noise(len(w), 6), false},
		"noise, the same":  {noise(len(w), 5), noise(len(w), 5), true},
	} {
		alone, _ := p.Pack(nil, c.plain)
		for _, limit := range []int64{0, int64(len(alone))} {
			packed, codec := p.PackAgainst([]byte("before"), c.plain, c.base, limit)
			packed = packed[len("before"):]
			if len(packed) > len(alone) || (codec == artifact.TensorBase) != c.based {
				t.Errorf("%s: codec %d, %d bytes, without the base %d", name, codec, len(packed), len(alone))
			}
			got := make([]byte, len(c.plain))
			if err := u.Unpack(got, packed, c.base, codec); err != nil || !bytes.Equal(got, c.plain) {
				t.Errorf("%s: other bytes, %v", name, err)
			}
			if err := u.Unpack(got, packed, nil, codec); c.based && !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: without its base: %v", name, err)
			}
		}
	}
}
