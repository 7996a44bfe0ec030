package layout_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/coordinator/cli/layout"
	"github.com/modelfleet/modelfleet/pkg/artifact"
)

// weight is a tensor to be written by one of the makers below.
type weight struct {
	name string
	data []byte
}

func weights() []weight {
	return []weight{{"embed", bytes.Repeat([]byte("e"), 300)}, {"layer.0", bytes.Repeat([]byte("l"), 77)}, {"head", bytes.Repeat([]byte("h"), 12)}}
}

func safetensors(t testing.TB, ws []weight, note string) []byte {
	head := map[string]any{"__metadata__": map[string]string{"note": note}}
	var data []byte
	for _, w := range ws {
		head[w.name] = map[string]any{"dtype": "U8", "shape": []int{len(w.data)}, "data_offsets": []int{len(data), len(data) + len(w.data)}}
		data = append(data, w.data...)
	}
	text, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), data...)
}

func text(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func gguf(ws []weight, alignment uint32) []byte {
	u32, u64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	b := u64(u64(u32([]byte("GGUF"), 3), uint64(len(ws))), 4)
	b = text(u32(text(b, "general.name"), 8), "tiny")
	b = u32(u32(text(b, "general.alignment"), 4), alignment)
	b = u64(u32(u32(text(b, "tokens"), 9), 8), 2)
	b = text(text(b, "one"), "two")
	b = u64(u32(u32(text(b, "scores"), 9), 6), 3)
	b = append(b, make([]byte, 12)...)
	var data []byte
	for _, w := range ws {
		b = u64(u32(u64(u32(text(b, w.name), 1), uint64(len(w.data))), 0), uint64(len(data)))
		data = append(data, w.data...)
		data = append(data, make([]byte, (int(alignment)-len(data)%int(alignment))%int(alignment))...)
	}
	b = append(b, make([]byte, (int(alignment)-len(b)%int(alignment))%int(alignment))...)
	return append(b, data...)
}

func field(b []byte, n int, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(n)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// onnx holds the weights itself, or says where in another file they are.
func onnx(ws []weight, elsewhere string) (model, data []byte) {
	graph := field(nil, 1, []byte("a node"))
	for _, w := range ws {
		tensor := []byte{1 << 3, 12, 2 << 3, 2} // dims, data type
		tensor = field(tensor, 8, []byte(w.name))
		if elsewhere == "" {
			tensor = field(tensor, 9, w.data)
		} else {
			for _, kv := range [][2]string{{"location", elsewhere}, {"offset", fmt.Sprint(len(data))}, {"length", fmt.Sprint(len(w.data))}} {
				tensor = field(tensor, 13, field(field(nil, 1, []byte(kv[0])), 2, []byte(kv[1])))
			}
			data = append(data, w.data...)
		}
		graph = field(graph, 5, tensor)
	}
	model = []byte{1 << 3, 9} // IR version
	return field(field(model, 2, []byte("maker")), 7, graph), data
}

func archive(t testing.TB, ws []weight) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, w := range ws {
		f, err := z.CreateHeader(&zip.FileHeader{Name: w.name, Method: zip.Store})
		if err == nil {
			_, err = f.Write(w.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(path string, b []byte) layout.File {
	return layout.File{Path: path, Size: int64(len(b)), Content: bytes.NewReader(b)}
}

// Whatever the format, the tensors are found where their bytes are.
func TestTensorsAreFound(t *testing.T) {
	t.Parallel()
	inside, _ := onnx(weights(), "")
	outside, data := onnx(weights(), "weights.bin")
	for name, c := range map[string]struct {
		files []layout.File
		in    string
		bytes []byte
	}{
		"safetensors":       {[]layout.File{file("m.safetensors", safetensors(t, weights(), "x"))}, "m.safetensors", safetensors(t, weights(), "x")},
		"gguf":              {[]layout.File{file("m.gguf", gguf(weights(), 32))}, "m.gguf", gguf(weights(), 32)},
		"gguf, aligned 64":  {[]layout.File{file("m", gguf(weights(), 64))}, "m", gguf(weights(), 64)},
		"onnx":              {[]layout.File{file("m.onnx", inside)}, "m.onnx", inside},
		"onnx and its data": {[]layout.File{file("d/weights.bin", data), file("d/m.onnx", outside)}, "d/weights.bin", data},
		"zip":               {[]layout.File{file("m.pt", archive(t, weights()))}, "m.pt", archive(t, weights())},
	} {
		got := layout.Of(c.files)[c.in]
		slices.SortFunc(got, func(a, b layout.Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
		if len(got) != 3 {
			t.Errorf("%s: %d tensors: %+v", name, len(got), got)
			continue
		}
		for i, w := range weights() {
			// A GGUF tensor takes its padding along.
			if held := c.bytes[got[i].Offset:][:got[i].Length]; got[i].Name != w.name || !bytes.HasPrefix(held, w.data) || len(held) >= len(w.data)+64 {
				t.Errorf("%s: %s: %+v holds %q", name, w.name, got[i], held)
			}
		}
	}
}

func TestWhatIsNotUnderstoodHasNoLayout(t *testing.T) {
	t.Parallel()
	_, data := onnx(weights(), "w")
	outside, _ := onnx(weights(), "../w")
	good := safetensors(t, weights(), "")
	for name, files := range map[string][]layout.File{
		"text":                  {file("a.txt", []byte("hello, hello, hello"))},
		"empty":                 {file("a.safetensors", nil)},
		"cut in its header":     {file("a.safetensors", good[:60])},
		"cut in its data":       {file("a.safetensors", good[:len(good)-1])},
		"offsets beyond":        {file("a.safetensors", bytes.Replace(good, []byte("[0,300]"), []byte("[0,900]"), 1))},
		"offsets turned around": {file("a.safetensors", bytes.Replace(good, []byte("[0,300]"), []byte("[300,0]"), 1))},
		"data outside":          {file("m.onnx", outside), file("w", data)},
	} {
		if got := layout.Of(files); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRegionsFollowTheTensors(t *testing.T) {
	t.Parallel()
	ws := []layout.Tensor{{"a", 100, 1000}, {"b", 1100, 500}, {"c", 1600, 400}}
	shift := func(ts []layout.Tensor, by int64) []layout.Tensor {
		ts = slices.Clone(ts)
		for i := range ts {
			ts[i].Offset += by
		}
		return ts
	}
	for name, c := range map[string]struct {
		tensors, base  []layout.Tensor
		size, baseSize int64
		want           []artifact.Region
	}{
		"nothing known":  {nil, ws, 2000, 2000, nil},
		"nothing shared": {[]layout.Tensor{{"x", 0, 7}}, ws, 2000, 2000, nil},
		"the same":       {ws, ws, 2000, 2000, []artifact.Region{{New: 0, Length: 2000, Base: 0}}},
		"a longer header": {shift(ws, 8), ws, 2008, 2000, []artifact.Region{
			{New: 0, Length: 100, Base: 0}, {New: 108, Length: 1900, Base: 100}}},
		"another order": {[]layout.Tensor{{"c", 100, 400}, {"a", 500, 1000}, {"b", 1500, 500}}, ws, 2000, 2000, []artifact.Region{
			{New: 0, Length: 100, Base: 0}, {New: 100, Length: 400, Base: 1600}, {New: 500, Length: 1500, Base: 100}}},
		"a tensor more": {[]layout.Tensor{{"a", 100, 1000}, {"new", 1100, 10}, {"b", 1110, 500}, {"c", 1610, 400}}, ws, 2010, 2000, []artifact.Region{
			{New: 0, Length: 1100, Base: 0}, {New: 1110, Length: 900, Base: 1100}}},
		"one that grew": {[]layout.Tensor{{"a", 100, 1200}, {"b", 1300, 500}, {"c", 1800, 400}}, ws, 2200, 2000, []artifact.Region{
			{New: 0, Length: 1100, Base: 0}, {New: 1300, Length: 900, Base: 1100}}},
		"other names": {[]layout.Tensor{{"x.a", 100, 1000}, {"x.b", 1100, 500}, {"x.c", 1600, 400}}, ws, 2000, 2000, []artifact.Region{
			{New: 0, Length: 2000, Base: 0}}},
	} {
		if diff := gocmp.Diff(c.want, layout.Regions(c.tensors, c.base, c.size, c.baseSize)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Regions are always in the form that an index takes, whatever the tensors, and
// a tensor with a namesake of its length is laid beside it, unless it overlaps another.
func TestRegionLaws(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size, baseSize := rapid.Int64Range(1, 5000).Draw(t, "size"), rapid.Int64Range(1, 5000).Draw(t, "base size")
		draw := func(what string, size int64) (ts []layout.Tensor) {
			apart := rapid.Bool().Draw(t, what+" apart")
			at := int64(0)
			for i := range rapid.IntRange(0, 12).Draw(t, what) {
				from := rapid.Int64Range(0, size-1).Draw(t, "at")
				if apart {
					if from = at; from >= size {
						break
					}
				}
				n := rapid.Int64Range(1, size-from).Draw(t, "length")
				if apart {
					n = min(n, 400)
				}
				at = from + n
				ts = append(ts, layout.Tensor{Name: fmt.Sprint("t", rapid.IntRange(0, 3).Draw(t, "name")+4*i), Offset: from, Length: n})
			}
			return ts
		}
		tensors, base := draw("new", size), draw("base", baseSize)
		rs := layout.Regions(tensors, base, size, baseSize)
		end := int64(0)
		for i, r := range rs {
			if r.Length < 1 || r.New < end || r.Base < 0 || r.New+r.Length > size || r.Base+r.Length > baseSize {
				t.Fatalf("region %d of %v", i, rs)
			}
			end = r.New + r.Length
		}
		if diff := gocmp.Diff(rs, artifact.Normal(rs, size, baseSize)); diff != "" && len(rs) > 0 {
			t.Fatalf("not in normal form: %s", diff)
		}
		if diff := gocmp.Diff(rs, layout.Regions(slices.Concat(tensors[len(tensors)/2:], tensors[:len(tensors)/2]), base, size, baseSize)); diff != "" {
			t.Fatalf("it depends on the order: %s", diff)
		}
		if same := layout.Regions(tensors, tensors, size, size); len(tensors) > 0 && !covers(same, tensors) {
			t.Fatalf("of itself: %v for %v", same, tensors)
		}
	})
}

// covers reports whether each tensor lies beside itself.
func covers(rs []artifact.Region, ts []layout.Tensor) bool {
	for _, t := range ts {
		left := t.Length
		for _, r := range rs {
			if r.New == r.Base {
				left -= max(0, min(r.New+r.Length, t.Offset+t.Length)-max(r.New, t.Offset))
			}
		}
		if left > 0 {
			return false
		}
	}
	return true
}

// FuzzOf: whatever a file holds, reading it ends, and names only places within it.
func FuzzOf(f *testing.F) {
	inside, _ := onnx(weights(), "")
	outside, _ := onnx(weights(), "w")
	for _, b := range [][]byte{safetensors(f, weights(), ""), gguf(weights(), 32), inside, outside, archive(f, weights())} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		files := []layout.File{file("m.onnx", b), file("m.bin", b), {Path: "w", Size: 50, Content: io.NewSectionReader(bytes.NewReader(nil), 0, 0)}}
		for path, ts := range layout.Of(files) {
			size := int64(len(b))
			if path == "w" {
				size = 50
			}
			for _, x := range ts {
				if x.Offset < 0 || x.Length < 1 || x.Offset+x.Length > size {
					t.Fatalf("%s: %+v in %d bytes", path, x, size)
				}
			}
			layout.Regions(ts, ts, size, size)
		}
	})
}
