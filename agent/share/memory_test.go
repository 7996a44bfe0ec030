package share_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/share"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// begin has a frame begin to arrive, and returns what cuts it off.
func begin(t *testing.T, c *http.Client, url string) (cut func()) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Modelfleet-Hop", "0")
	resp, err := c.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return func() { resp.Body.Close() }
}

// A frame that the disk has no room for is in memory until it was sent; before
// that, no other is fetched.
func TestNoMoreFramesInMemoryThanAreFetched(t *testing.T) {
	t.Parallel()
	w := found(t, 3)
	w.settle(1, func(o *share.Options) {
		o.Disk, o.LowMemory, o.Rate = -1, true, 1<<10 // so slow that a frame takes all of the test
		o.Timing.Wait = 2 * time.Second
	})
	h := w.houses[0]
	w.introduce(guest("guest-0"), guest("guest-1"))
	first, second := clientOf(t, w.certificate(w.ca, "guest-0")), clientOf(t, w.certificate(w.ca, "guest-1"))
	cut := begin(t, first, url(h.addr, w.frames[0]))
	if status, _, _ := get(t, second, url(h.addr, w.frames[1])); status != http.StatusServiceUnavailable {
		t.Errorf("answered %d", status)
	}
	if n := w.bucket.bytes.Load(); n != int64(w.frames[0].Length) {
		t.Errorf("%d bytes were fetched", n)
	}
	cut()
	begin(t, second, url(h.addr, w.frames[1]))
}

// One that is passed on too; who waits for its turn in vain is served without.
func TestNoMoreFramesInMemoryThanArePassedOn(t *testing.T) {
	t.Parallel()
	w := found(t, 24)
	w.settle(2, func(o *share.Options) {
		patient(o)
		o.LowMemory = true
		if o.Self == "d00" { // so slow that a frame takes all of the test
			o.Rate, o.Timing.Stall = 1<<10, 3*time.Second
		}
	})
	h, owner := w.houses[0], w.houses[1]
	w.introduce(guest("guest-0"))
	client := clientOf(t, w.certificate(w.ca, "guest-0"))
	var foreign []delivery.FrameRef
	for _, r := range w.frames {
		if owner.Owns(r) {
			foreign = append(foreign, r)
		}
	}
	begin(t, client, url(h.addr, foreign[0]))
	begin(t, client, url(h.addr, foreign[1]))
	if s := h.Stats(); s.Forwarded != 1 || s.Pulled != 1 {
		t.Errorf("it did %+v", s)
	}
}

// A file of which only the whole is signed is given from the disk, not fetched.
func TestAFileWithoutFramesIsNotFetched(t *testing.T) {
	t.Parallel()
	w := found(t, 1)
	w.settle(1, nil)
	h := w.houses[0]
	w.introduce(guest("d99"))
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "labels.txt"), []byte("cat\ndog\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := oms.Hash(t.Context(), folder, oms.Options{Name: "detector", Method: oms.Files})
	if err != nil {
		t.Fatal(err)
	}
	files, err := artifact.FilesOf(m)
	if err != nil {
		t.Fatal(err)
	}
	w.want = delivery.Want{Key: fleet.DigestOf([]byte("bundle of files")), Path: w.want.Path, Manifest: m, Size: 8}
	r := delivery.FrameRef{Release: w.want.Key, File: files[0].Digest, Length: 8}
	if status, _, _ := get(t, clientOf(t, w.certificate(w.ca, "d99")), url(h.addr, r)); status != http.StatusNotFound {
		t.Errorf("answered %d", status)
	}
}
