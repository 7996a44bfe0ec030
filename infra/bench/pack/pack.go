// Package pack measures what believing costs a member: the verification of a trust
// pack and of a release's bundle, and the size of packs, next to a TUF client that
// follows the same repository over HTTP in the same run.
package pack

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Run measures and returns the figures.
func Run(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	rounds := 5
	if o.Quick {
		rounds = 1
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	work, err := os.MkdirTemp(o.Work, "pack")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	var figures []figure.Figure
	for _, s := range []shape{{1, 3, 1}, {5, 20, 1}, {20, 50, 1}, {20, 50, 20}} {
		for _, audit := range []bool{false, true} {
			w, err := build(ctx, s, audit, work)
			if err != nil {
				return nil, fmt.Errorf("fleet of %s: %w", s, err)
			}
			name := "pack " + s.String()
			if audit {
				name += " with audit proof"
			}
			got, err := w.measure(name, rounds, !audit && s.named == 1)
			if err != nil {
				return nil, err
			}
			figures = append(figures, got...)
			o.Logf("%s: verified in %.2f ms", name, got[0].Value/1e6)
			if s.named > 1 || s.teams == 1 {
				warm, err := w.warm(ctx, name, rounds, s, work)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				figures = append(figures, warm...)
			}
			if s.teams == 1 && !audit {
				bundle, err := w.bundleFigures(rounds)
				if err != nil {
					return nil, err
				}
				figures = append(figures, bundle...)
			}
		}
	}
	return figures, nil
}

// measure gives a pack's figures; the anchor is a TUF client's cold start.
func (w *world) measure(name string, rounds int, anchor bool) ([]figure.Figure, error) {
	facts := fleet.Facts{ID: "m", Kind: fleet.Device, Group: fleet.DefaultGroup, Agent: "1.0.0"}
	st, err := trust.NewState(w.genesis.Root, w.genesis.Pin)
	if err != nil {
		return nil, err
	}
	verify := func() error {
		t, _, err := trust.Verify(w.pack, st, facts, w.now)
		if err == nil && (t.Freshness != trust.Fresh || len(t.Refused) > 0) {
			err = fmt.Errorf("%s: %s, %d refused", name, t.Freshness, len(t.Refused))
		}
		return err
	}
	plain, err := plainSize(w.pack)
	if err != nil {
		return nil, err
	}
	if !anchor {
		all, err := interleaved(rounds, verify)
		if err != nil {
			return nil, err
		}
		return w.own(name, all[0], plain), nil
	}
	srv, served := w.serve()
	defer srv.Close()
	cold := func() error { return w.cold(srv.URL) }
	if err := cold(); err != nil {
		return nil, fmt.Errorf("go-tuf Updater: %w", err)
	}
	requests := float64(served.Load())
	all, err := interleaved(rounds, verify, func() error { return w.fetched(srv, verify) }, cold)
	if err != nil {
		return nil, err
	}
	out := w.own(name, all[0], plain)
	out[2].Anchor, out[2].Ratio = "go-tuf Updater, cold", 1/requests
	fetched, tuf := all[1], all[2]
	ratios := make([]float64, rounds)
	for i := range ratios {
		ratios[i] = fetched.ns[i] / tuf.ns[i]
	}
	return append(out,
		figure.Figure{Name: name + ", fetch and verify over HTTP", Value: figure.Median(fetched.ns), Unit: "ns", Anchor: "go-tuf Updater, cold", Ratio: figure.Median(ratios)},
		figure.Figure{Name: name + ", go-tuf Updater cold", Value: figure.Median(tuf.ns), Unit: "ns"},
		figure.Figure{Name: name + ", go-tuf Updater requests", Value: requests, Unit: "requests"}), nil
}

// own is the figures of a pack by itself.
func (w *world) own(name string, s series, plain int) []figure.Figure {
	return []figure.Figure{
		{Name: name + ", verify", Value: figure.Median(s.ns), Unit: "ns"},
		{Name: name + ", verify allocations", Value: figure.Median(s.allocs), Unit: "allocs"},
		{Name: name + ", requests", Value: 1, Unit: "requests"},
		{Name: name + ", size", Value: float64(len(w.pack)), Unit: "bytes"},
		{Name: name + ", size plain", Value: float64(plain), Unit: "bytes"},
	}
}

// series is what an operation cost, round by round.
type series struct{ ns, allocs []float64 }

// interleaved runs the operations in turn, round by round, so that what else the
// machine does falls on all of them.
func interleaved(rounds int, ops ...func() error) ([]series, error) {
	out := make([]series, len(ops))
	for range rounds {
		for i, op := range ops {
			var err error
			r := testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err = op(); err != nil {
						b.FailNow()
					}
				}
			})
			if err != nil {
				return nil, err
			}
			out[i].ns = append(out[i].ns, float64(r.T.Nanoseconds())/float64(r.N))
			out[i].allocs = append(out[i].allocs, float64(r.AllocsPerOp()))
		}
	}
	return out, nil
}

// serve serves the repository over HTTP and counts requests.
func (w *world) serve() (*httptest.Server, *atomic.Int64) {
	var n atomic.Int64
	return httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n.Add(1)
		body, ok := w.objects[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(body) // a client that went away is its own trouble
	})), &n
}

// cold has a TUF client that knows only the root learn what to run: the directive
// and the bundle of one release.
func (w *world) cold(url string) error {
	c, err := config.New(url+"/tuf", w.genesis.Root)
	if err != nil {
		return err
	}
	c.DisableLocalCache = true
	c.RemoteTargetsURL = url + "/tuf/targets"
	u, err := updater.New(c)
	if err != nil {
		return err
	}
	if err := u.Refresh(); err != nil {
		return err
	}
	for _, path := range []string{fleet.DefaultGroup.TargetPath(), w.path} {
		t, err := u.GetTargetInfo(path)
		if err != nil {
			return err
		}
		if _, _, err := u.DownloadTarget(t, "", ""); err != nil {
			return err
		}
	}
	return nil
}

// fetched does what a member does for the same: one pack and the bundle.
func (w *world) fetched(srv *httptest.Server, verify func() error) error {
	get := func(key string) error {
		resp, err := srv.Client().Get(srv.URL + "/" + key)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = readAll(resp)
		return err
	}
	if err := get(fleet.DefaultGroup.PackKey()); err != nil {
		return err
	}
	if err := verify(); err != nil {
		return err
	}
	return get(w.path)
}

// bundleFigures is what a release's OMS bundle takes.
func (w *world) bundleFigures(rounds int) ([]figure.Figure, error) {
	all, err := interleaved(rounds, func() error {
		b, err := oms.Parse(w.bundle)
		if err == nil {
			_, err = b.VerifyKey(w.key)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return []figure.Figure{
		{Name: "OMS bundle of one file, verify", Value: figure.Median(all[0].ns), Unit: "ns"},
		{Name: "OMS bundle of one file, verify allocations", Value: figure.Median(all[0].allocs), Unit: "allocs"},
		{Name: "OMS bundle of one file, size", Value: float64(len(w.bundle)), Unit: "bytes"},
	}, nil
}

func plainSize(pack []byte) (int, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(pack, nil)
	return len(plain), err
}

func readAll(resp *http.Response) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}
