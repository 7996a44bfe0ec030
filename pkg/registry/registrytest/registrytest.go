// Package registrytest is the conformance suite of registries: what modelfleet
// relies on, and nothing else.
package registrytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Suite checks a registry that both reads and writes. The store may hold other
// objects: keys of the suite begin with a prefix of their own for each call.
func Suite(t *testing.T, s registry.Store) {
	prefix := fmt.Sprintf("suite-%016x/", rand.Uint64())
	t.Run("Reader", func(t *testing.T) { ReaderSuite(t, s, s) })
	for _, c := range []struct {
		name string
		test func(t *testing.T, s registry.Store, key string)
	}{
		{"CreateOnce", createOnce},
		{"CreateRaceHasOneMaker", createRace},
		{"CreateRefusesOtherBytes", createRefusesOtherBytes},
		{"CreateLarge", createLarge},
		{"SwapComparesAndSets", swapComparesAndSets},
		{"SwapRaceHasOneWinner", swapRace},
		{"ListIsSortedAndPrefixed", listIsSorted},
		{"BadKeysAreInvalid", badKeys},
		{"RemoveIsForGood", removes},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s, prefix+c.name) })
	}
}

// ReaderSuite checks a reader of objects that the writer puts there.
func ReaderSuite(t *testing.T, r registry.Reader, w registry.Writer) {
	prefix := fmt.Sprintf("suite-%016x/", rand.Uint64())
	for _, c := range []struct {
		name string
		test func(t *testing.T, r registry.Reader, w registry.Writer, key string)
	}{
		{"GetReadsWhatWasCreated", getReads},
		{"GetNotModified", getNotModified},
		{"RangeReadsExactly", rangeReads},
		{"MissingIsNotFound", missing},
		{"CanceledIsCanceled", canceled},
		{"OddKeys", oddKeys},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, r, w, prefix+c.name) })
	}
}

func want(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Fatalf("error is %v (%v), want %v", err, fault.KindOf(err), kind)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v (%v)", err, fault.KindOf(err))
	}
}

func mustCreate(t *testing.T, w registry.Writer, key string, body []byte) {
	t.Helper()
	made, err := w.Create(t.Context(), key, registry.BodyOf(body))
	ok(t, err)
	if !made {
		t.Fatalf("create %s: made nothing", key)
	}
}

func getReads(t *testing.T, r registry.Reader, w registry.Writer, key string) {
	for i, body := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("abc"), 100_000)} {
		k := fmt.Sprintf("%s/%d", key, i)
		mustCreate(t, w, k, body)
		got, etag, err := r.Get(t.Context(), k, "")
		ok(t, err)
		if !bytes.Equal(got, body) || etag == "" {
			t.Fatalf("got %d bytes with etag %q, want %d bytes", len(got), etag, len(body))
		}
	}
}

func getNotModified(t *testing.T, r registry.Reader, w registry.Writer, key string) {
	etag, err := w.Swap(t.Context(), key, []byte("one"), "")
	ok(t, err)
	_, seen, err := r.Get(t.Context(), key, "")
	ok(t, err)
	if _, _, err = r.Get(t.Context(), key, seen); !errors.Is(err, registry.ErrNotModified) {
		t.Fatalf("unchanged object: error is %v", err)
	}
	_, err = w.Swap(t.Context(), key, []byte("two"), etag)
	ok(t, err)
	got, _, err := r.Get(t.Context(), key, seen)
	ok(t, err)
	if string(got) != "two" {
		t.Fatalf("got %q after the swap", got)
	}
}

func rangeReads(t *testing.T, r registry.Reader, w registry.Writer, key string) {
	body := make([]byte, 300_001)
	for i := range body {
		body[i] = byte(i * 7)
	}
	mustCreate(t, w, key, body)
	for _, c := range [][2]int64{{0, 1}, {0, 300_001}, {1, 4096}, {299_999, 2}, {300_000, 1}} {
		rc, err := r.Range(t.Context(), key, c[0], c[1])
		ok(t, err)
		got, err := io.ReadAll(rc)
		ok(t, err)
		ok(t, rc.Close())
		if !bytes.Equal(got, body[c[0]:c[0]+c[1]]) {
			t.Fatalf("range %v: got other bytes (%d)", c, len(got))
		}
	}
	for _, c := range [][2]int64{{300_001, 1}, {0, 0}, {-1, 1}, {300_000, 2}} {
		if rc, err := r.Range(t.Context(), key, c[0], c[1]); err == nil {
			_ = rc.Close()
			t.Fatalf("range %v: no error", c)
		} else {
			want(t, err, fault.Invalid)
		}
	}
}

func missing(t *testing.T, r registry.Reader, _ registry.Writer, key string) {
	_, _, err := r.Get(t.Context(), key, "")
	want(t, err, fault.NotFound)
	_, err = r.Range(t.Context(), key, 0, 1)
	want(t, err, fault.NotFound)
}

func canceled(t *testing.T, r registry.Reader, w registry.Writer, key string) {
	mustCreate(t, w, key, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := r.Get(ctx, key, "")
	want(t, err, fault.Canceled)
	_, err = r.Range(ctx, key, 0, 1)
	want(t, err, fault.Canceled)
}

func oddKeys(t *testing.T, r registry.Reader, w registry.Writer, key string) {
	for _, odd := range []string{"a b", "plus+", "ü", "per%20cent", "q?x=1", "a#b", "deep/er/est", "tilde~", "eq=&;:@,"} {
		k := key + "/" + odd
		mustCreate(t, w, k, []byte(odd))
		got, _, err := r.Get(t.Context(), k, "")
		ok(t, err)
		if string(got) != odd {
			t.Fatalf("key %q holds %q", k, got)
		}
	}
}

func createOnce(t *testing.T, s registry.Store, key string) {
	mustCreate(t, s, key, []byte("content"))
	made, err := s.Create(t.Context(), key, registry.BodyOf([]byte("content")))
	ok(t, err)
	if made {
		t.Fatal("the second create made it again")
	}
	_, err = s.Create(t.Context(), key, registry.BodyOf([]byte("CONTENT")))
	want(t, err, fault.Conflict)
	_, err = s.Create(t.Context(), key, registry.BodyOf([]byte("longer content")))
	want(t, err, fault.Conflict)
	got, _, err := s.Get(t.Context(), key, "")
	ok(t, err)
	if string(got) != "content" {
		t.Fatalf("it holds %q now", got)
	}
}

func createRace(t *testing.T, s registry.Store, key string) {
	const n = 8
	var wg sync.WaitGroup
	made, errs := make([]bool, n), make([]error, n)
	for i := range n {
		wg.Go(func() { made[i], errs[i] = s.Create(t.Context(), key, registry.BodyOf([]byte("same"))) })
	}
	wg.Wait()
	makers := 0
	for i := range n {
		ok(t, errs[i])
		if made[i] {
			makers++
		}
	}
	if makers != 1 {
		t.Fatalf("%d of %d made the object", makers, n)
	}
}

func createRefusesOtherBytes(t *testing.T, s registry.Store, key string) {
	body := registry.BodyOf([]byte("what is sent"))
	body.SHA256 = registry.BodyOf([]byte("what was meant")).SHA256
	if _, err := s.Create(t.Context(), key, body); err == nil {
		t.Fatal("bytes with another digest were taken")
	}
	_, _, err := s.Get(t.Context(), key, "")
	want(t, err, fault.NotFound)
}

// createLarge is big enough for the ways of sending in parts.
func createLarge(t *testing.T, s registry.Store, key string) {
	body := make([]byte, 65<<20+12345)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(body)
	mustCreate(t, s, key, body)
	made, err := s.Create(t.Context(), key, registry.BodyOf(body))
	ok(t, err)
	if made {
		t.Fatal("the second create made it again")
	}
	body[len(body)-1]++
	_, err = s.Create(t.Context(), key, registry.BodyOf(body))
	want(t, err, fault.Conflict)
	rc, err := s.Range(t.Context(), key, 64<<20, 1<<20)
	ok(t, err)
	defer rc.Close()
	got, err := io.ReadAll(rc)
	ok(t, err)
	if !bytes.Equal(got, body[64<<20:65<<20]) {
		t.Fatal("a range across the parts holds other bytes")
	}
}

func swapComparesAndSets(t *testing.T, s registry.Store, key string) {
	_, err := s.Swap(t.Context(), key, []byte("x"), `"0123456789abcdef0123456789abcdef"`)
	want(t, err, fault.Conflict)
	one, err := s.Swap(t.Context(), key, []byte("one"), "")
	ok(t, err)
	_, err = s.Swap(t.Context(), key, []byte("again"), "")
	want(t, err, fault.Conflict)
	two, err := s.Swap(t.Context(), key, []byte("two"), one)
	ok(t, err)
	_, err = s.Swap(t.Context(), key, []byte("late"), one)
	want(t, err, fault.Conflict)
	got, etag, err := s.Get(t.Context(), key, "")
	ok(t, err)
	if string(got) != "two" || etag != two {
		t.Fatalf("it holds %q with etag %s, want two with %s", got, etag, two)
	}
}

func swapRace(t *testing.T, s registry.Store, key string) {
	etag, err := s.Swap(t.Context(), key, []byte("start"), "")
	ok(t, err)
	const n = 8
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { _, errs[i] = s.Swap(t.Context(), key, fmt.Appendf(nil, "racer %d", i), etag) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			want(t, err, fault.Conflict)
		}
	}
	if won != 1 {
		t.Fatalf("%d of %d won", won, n)
	}
}

func listIsSorted(t *testing.T, s registry.Store, key string) {
	for _, k := range []string{"/b", "/a/2", "/a/1", "/c"} {
		mustCreate(t, s, key+k, []byte(k))
	}
	mustCreate(t, s, key+"-not/x", []byte("no"))
	var got []string
	for o, err := range s.List(t.Context(), key+"/") {
		ok(t, err)
		if o.Size != int64(len(strings.TrimPrefix(o.Key, key))) || o.ETag == "" || time.Since(o.Modified).Abs() > time.Hour {
			t.Fatalf("listed %+v", o)
		}
		got = append(got, strings.TrimPrefix(o.Key, key))
	}
	if w := "/a/1 /a/2 /b /c"; strings.Join(got, " ") != w {
		t.Fatalf("listed %v, want %s", got, w)
	}
	for range s.List(t.Context(), key+"/nothing-here/") {
		t.Fatal("listed what is not there")
	}
	for range s.List(t.Context(), key+"/") {
		break // stopping early is allowed
	}
}

func removes(t *testing.T, s registry.Store, key string) {
	r, can := s.(registry.Remover)
	if !can {
		t.Skip("it removes nothing")
	}
	mustCreate(t, s, key, []byte("one"))
	mustCreate(t, s, key+"-2", []byte("two"))
	for range 2 { // what is not there is no error
		ok(t, r.Remove(t.Context(), key))
	}
	ok(t, r.Remove(t.Context(), key+"-2/below"))
	_, _, err := s.Get(t.Context(), key, "")
	want(t, err, fault.NotFound)
	b, _, err := s.Get(t.Context(), key+"-2", "")
	ok(t, err)
	if string(b) != "two" {
		t.Fatalf("its neighbour is %q", b)
	}
	mustCreate(t, s, key, []byte("another"))
	want(t, r.Remove(t.Context(), "a/../b"), fault.Invalid)
}

func badKeys(t *testing.T, s registry.Store, _ string) {
	for _, k := range []string{"", "/rooted", "a/../b", "../x", "a//b", "a/", "a\\b", "nul\x00", "line\nbreak", ".", strings.Repeat("k", 1025)} {
		_, _, err := s.Get(t.Context(), k, "")
		want(t, err, fault.Invalid)
		_, err = s.Range(t.Context(), k, 0, 1)
		want(t, err, fault.Invalid)
		_, err = s.Create(t.Context(), k, registry.BodyOf([]byte("x")))
		want(t, err, fault.Invalid)
		_, err = s.Swap(t.Context(), k, []byte("x"), "")
		want(t, err, fault.Invalid)
	}
}
