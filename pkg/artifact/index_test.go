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

func TestIndexRoundTrips(t *testing.T) {
	t.Parallel()
	for _, x := range []artifact.Index{fullIndex(), rawIndex(), emptyIndex()} {
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
	for i, line := range strings.Fields(string(b)) {
		want, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		x := []artifact.Index{fullIndex(), rawIndex(), emptyIndex()}[i]
		if got := x.Encode(); !bytes.Equal(got, want) {
			t.Errorf("vector %d: encodes to %x", i, got)
		}
	}
}

func TestEveryChangedByteOfAnIndexIsNoticedOrHarmless(t *testing.T) {
	t.Parallel()
	good := fullIndex().Encode()
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x81
		x, err := artifact.ParseIndex(b)
		if err == nil && !bytes.Equal(x.Encode(), b) {
			t.Errorf("byte %d: two forms of one index", i)
		}
		if err != nil && !fault.Is(err, fault.Untrusted) {
			t.Errorf("byte %d: error is %v", i, err)
		}
	}
	for n := range good {
		if _, err := artifact.ParseIndex(good[:n]); err == nil {
			t.Errorf("cut to %d bytes it is still read", n)
		}
	}
}

func FuzzIndex(f *testing.F) {
	for _, x := range []artifact.Index{fullIndex(), rawIndex(), emptyIndex()} {
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
		err := u.Unpack(buf[:n], packed, nil, artifact.Codec(codec))
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
	for name, c := range map[string]struct {
		plain []byte
		codec artifact.Codec
	}{
		"skewed bytes": {weights(1<<20, 1), artifact.Zstd},
		"noise":        {noise(1<<20, 1), artifact.Plain},
		"zeros":        {make([]byte, 1<<20), artifact.Zstd},
		"tiny":         {[]byte("a"), artifact.Plain},
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
