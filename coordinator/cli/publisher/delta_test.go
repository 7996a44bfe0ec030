package publisher_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// bfloats are n weights as bf16.
func bfloats(n int, seed byte) []byte {
	rng := rand.New(rand.NewChaCha8([32]byte{seed}))
	b := make([]byte, 0, 2*n)
	for range n {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(rng.NormFloat64()*0.02))>>16))
	}
	return b
}

// nudged is what a little training makes of bf16 weights.
func nudged(w []byte) []byte {
	w = slices.Clone(w)
	for i := 0; i+2 <= len(w); i += 8 {
		binary.LittleEndian.PutUint16(w[i:], binary.LittleEndian.Uint16(w[i:])+1)
	}
	return w
}

// safetensors is a file of tensors in an order, with a note in its header.
func safetensors(t *testing.T, tensors map[string][]byte, order []string, note string) string {
	t.Helper()
	head := map[string]any{"__metadata__": map[string]string{"note": note}}
	var data []byte
	for _, name := range order {
		w := tensors[name]
		head[name] = map[string]any{"dtype": "BF16", "shape": []int{len(w) / 2}, "data_offsets": []int{len(data), len(data) + len(w)}}
		data = append(data, w...)
	}
	text, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(text)))) + string(text) + string(data)
}

func (b *bench) deltas(d publisher.Deltas, r publisher.Release) publisher.Outcome {
	b.t.Helper()
	out, err := publisher.Publish(b.t.Context(), publisher.Options{Store: b.store, Repository: b.repository(b.store), Key: b.key, Now: now, Deltas: d}, r)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// Deltas are made from the three versions that most members run and from the one
// before; or from just those that were asked for; or none.
func TestDeltasAreMadeFromWhatMembersRun(t *testing.T) {
	b := newBench(t)
	for n := range 6 {
		b.deltas(publisher.Deltas{Off: true}, b.model(fleet.Version(fmt.Sprint(n+1)), map[string]string{"a": fmt.Sprint(n)}))
	}
	for n, c := range []struct {
		deltas publisher.Deltas
		want   string
	}{
		{publisher.Deltas{}, "6"},
		{publisher.Deltas{Members: map[fleet.Version]int{"1": 5, "2": 1, "3": 9, "4": 2, "9": 99}}, "3 1 4 7"},
		{publisher.Deltas{Members: map[fleet.Version]int{"8": 5, "2": 0}}, "8"},
		{publisher.Deltas{From: []fleet.Version{"2", "1"}, Members: map[fleet.Version]int{"3": 9}}, "2 1"},
		{publisher.Deltas{Off: true}, ""},
	} {
		r := b.model(fleet.Version(fmt.Sprint(n+7)), map[string]string{"a": fmt.Sprint("new ", n)})
		for range 2 { // again, the version itself is no base
			var got []string
			for _, d := range b.deltas(c.deltas, r).Deltas {
				got = append(got, string(d.From))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%+v: deltas from %v, want %s", c.deltas, got, c.want)
			}
		}
	}
	_, err := publisher.Publish(t.Context(), publisher.Options{
		Store: b.store, Repository: b.repository(b.store), Key: b.key, Now: now, Deltas: publisher.Deltas{From: []fleet.Version{"99"}},
	}, b.model("100", map[string]string{"a": "x"}))
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("from a version that is not: %v", err)
	}
}

// A header that grew and tensors that moved leave the delta small, whether the
// new version is in a folder or in the bucket; members learn the regions from it.
func TestDeltasFollowTheTensors(t *testing.T) {
	tensors := map[string][]byte{"embed": bfloats(300_000, 1), "block.0": bfloats(120_000, 2), "block.1": bfloats(120_000, 3)}
	trained := map[string][]byte{}
	for name, w := range tensors {
		trained[name] = nudged(w)
	}
	order := []string{"embed", "block.0", "block.1"}
	old := safetensors(t, tensors, order, "v1")
	for name, now := range map[string]string{
		"a longer header": safetensors(t, trained, order, "v2, trained on much more data"),
		"another order":   safetensors(t, trained, []string{"block.1", "embed", "block.0"}, "v2"),
	} {
		b := newBench(t)
		b.deltas(publisher.Deltas{}, b.model("1", map[string]string{"m.safetensors": old}))
		r := b.model("2", map[string]string{"m.safetensors": now})
		b.deltas(publisher.Deltas{Off: true}, r)
		opt := publisher.Options{Store: b.store, Repository: b.repository(b.store)}
		made, err := publisher.MakeDeltas(t.Context(), opt, fleet.Release{Team: "vision", Model: "m", Version: "2"})
		if err != nil || len(made) != 1 || made[0].Kept != 1 || made[0].Bytes > made[0].Full/2 {
			t.Fatalf("%s: %+v, %v", name, made, err)
		}
		before := len(objects(t, b.store))
		again := b.deltas(publisher.Deltas{}, r)
		if len(again.Deltas) != 1 || again.Deltas[0].Bytes != made[0].Bytes || again.Deltas[0].Sent != 0 || len(objects(t, b.store)) != before {
			t.Errorf("%s: out of the folder: %+v", name, again.Deltas)
		}
		for key, body := range objects(t, b.store) {
			if x, err := artifact.ParseIndex(body); err == nil && x.Kind == artifact.Delta && (len(x.Regions) < 2 || !strings.Contains(key, "/delta/")) {
				t.Errorf("%s: %s: regions %v", name, key, x.Regions)
			}
		}
	}
}

// objects is everything in a bucket.
func objects(t *testing.T, s registry.Store) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		body, _, err := s.Get(t.Context(), o.Key, "")
		if err != nil {
			t.Fatal(err)
		}
		all[o.Key] = body
	}
	return all
}

// Wherever publishing with a delta is cut short, repeating it ends with the same
// bucket, and the delta is there before the release is.
func TestDeltasAreFinishedByRepeatingIt(t *testing.T) {
	w := string(bfloats(200_000, 1))
	for cut := range 20 {
		b := newBench(t)
		b.deltas(publisher.Deltas{}, b.model("1", map[string]string{"a": w}))
		r := b.model("2", map[string]string{"a": string(nudged([]byte(w)))})
		_, err := b.publish(t.Context(), &dying{b.store, cut}, r)
		listed := func() bool {
			d, err := b.repository(b.store).Draft(t.Context(), "vision")
			return err == nil && len(d.Role.Entries) == 2
		}
		delta := func() (n int) {
			for key := range objects(t, b.store) {
				if strings.Contains(key, "/delta/") {
					n++
				}
			}
			return n
		}
		if err == nil {
			return
		}
		// A delta that fails is told and stops nothing; the rest fails as well here.
		if !fault.Is(err, fault.Transient) || listed() {
			t.Fatalf("cut after %d: listed %v, %v", cut, listed(), err)
		}
		if out, err := b.publish(t.Context(), b.store, r); err != nil || !out.Published || !listed() || delta() != 2 {
			t.Fatalf("cut after %d, repeated: %d objects of the delta, %+v, %v", cut, delta(), out, err)
		}
	}
	t.Error("20 writes were not enough")
}

// Variants are paired by their names; one that is new has no delta.
func TestDeltasPairVariants(t *testing.T) {
	b := newBench(t)
	w := map[string][]byte{"fp16": bfloats(100_000, 1), "int8": bfloats(100_000, 2), "big": bfloats(100_000, 3)}
	release := func(v fleet.Version, change func([]byte) []byte, names ...string) publisher.Release {
		r := publisher.Release{Team: "vision", Model: "m", Version: v}
		for _, name := range names {
			d := t.TempDir()
			if err := os.WriteFile(filepath.Join(d, "w.bin"), change(w[name]), 0o644); err != nil {
				t.Fatal(err)
			}
			r.Sources = append(r.Sources, publisher.Source{Dir: d, Variant: name, Classes: []string{name}})
		}
		return r
	}
	b.deltas(publisher.Deltas{}, release("1", bytes.Clone, "fp16", "int8"))
	out := b.deltas(publisher.Deltas{}, release("2", nudged, "big", "int8", "fp16"))
	var got []string
	for _, d := range out.Deltas {
		got = append(got, fmt.Sprint(d.Variant, " ", d.From, " ", d.Kept))
	}
	if strings.Join(got, ", ") != "int8 1 1, fp16 1 1" {
		t.Errorf("deltas are %v", got)
	}
}
