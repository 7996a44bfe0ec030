package delivery_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// scene is a member about to be updated and one source that will lie to it.
type scene struct {
	*world
	was, is model
	want    delivery.Want
	key     string // of the lying object; "" for neighbours
	site    *site
}

// serve has the lying source answer with other bytes.
func (s *scene) serve(change func(b []byte) []byte) {
	if s.site != nil {
		s.site.answer = func(_ delivery.FrameRef, b []byte) ([]byte, error) { return change(bytes.Clone(b)), nil }
		return
	}
	s.put(s.key, change(s.get(s.key)))
}

// refuse has the lying source answer everything with an error.
func (s *scene) refuse(err error) {
	if s.site != nil {
		s.site.answer = func(delivery.FrameRef, []byte) ([]byte, error) { return nil, err }
		return
	}
	s.src.get = func(key string) error {
		if strings.HasPrefix(key, s.key) {
			return err
		}
		return nil
	}
	s.src.open = func(key string, _, _ int64) error { return s.src.get(key) }
}

// through has what the lying source sends pass through something.
func (s *scene) through(pass func(io.Reader) io.Reader) {
	s.src.body = func(_ context.Context, key string, _ int64, rc io.ReadCloser) io.ReadCloser {
		if key == s.key {
			return body{pass(rc), rc}
		}
		return rc
	}
}

// reindex changes the lying object's index.
func (s *scene) reindex(change func(x *artifact.Index)) {
	x := s.index(s.key)
	change(&x)
	s.put(artifact.IndexKey(s.key), x.Encode())
}

// bomb makes each frame of the lying object one that unpacks to 64 MiB.
func (s *scene) bomb() {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	b := e.EncodeAll(make([]byte, 64<<20), nil)
	var object []byte
	s.reindex(func(x *artifact.Index) {
		for i := range x.Frames {
			if int64(len(b)) < x.FrameLen(i) {
				x.Frames[i] = artifact.Packed{Length: int64(len(b)), Codec: artifact.Zstd, Digest: fleet.DigestOf(b)}
				object = append(object, b...)
			}
		}
	})
	s.put(s.key, object)
}

// otherBase puts the difference to another file where the one to the base
// should be.
func (s *scene) otherBase() {
	other := model{"model.bin": bytes.Clone(s.was["model.bin"])}
	for i := 0; i < len(other["model.bin"]); i += 64 {
		other["model.bin"][i] ^= 1
	}
	key := s.delta(s.publish(other, oms.Shards), s.want, other, s.is, "model.bin")
	base := s.baseOf(s.key)
	s.put(s.key, s.get(key))
	x := s.index(key)
	x.Base = base
	s.put(artifact.IndexKey(s.key), x.Encode())
}

// half delivers the first half of what is asked for, each time.
func half(r io.Reader) io.Reader {
	b, err := io.ReadAll(r)
	if err != nil {
		return r
	}
	return bytes.NewReader(b[:len(b)/2])
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Whatever one source says, the member ends with what was signed, from the next
// source; if there is none, with one error that says what is wrong. It never
// takes long, and never ends with other bytes.
func TestWhateverASourceSays(t *testing.T) {
	const raw, full, delta, peer = "raw", "full", "delta", "neighbour"
	const none = fault.Internal // no lie may end so: here it ends well
	packed := []string{full, delta}
	bucket := []string{raw, full, delta}
	for name, lie := range map[string]struct {
		of    []string // sources that can; nil: all
		do    func(s *scene)
		alone fault.Kind // of the error when nobody else has the file
	}{
		"corrupt": {nil, func(s *scene) {
			s.serve(func(b []byte) []byte {
				for i := 100; i < len(b); i += 512 {
					b[i] ^= 0x10
				}
				return b
			})
		}, fault.Untrusted},
		"truncated":    {nil, func(s *scene) { s.serve(func(b []byte) []byte { return b[:len(b)/3] }) }, fault.Invalid},
		"swapped":      {nil, func(s *scene) { s.serve(func(b []byte) []byte { return append(b[len(b)/2:], b[:len(b)/2]...) }) }, fault.Untrusted},
		"wrong object": {nil, func(s *scene) { s.serve(func(b []byte) []byte { return noise(len(b), 99) }) }, fault.Untrusted},
		"403":          {nil, func(s *scene) { s.refuse(fault.Newf(fault.Denied, "read", "key", "403")) }, fault.Denied},
		"404":          {nil, func(s *scene) { s.refuse(fault.Newf(fault.NotFound, "read", "key", "404")) }, fault.NotFound},
		"500":          {nil, func(s *scene) { s.refuse(fault.Newf(fault.Transient, "read", "key", "500")) }, fault.Transient},
		"503":          {nil, func(s *scene) { s.refuse(busy(20 * time.Second)) }, fault.Transient},
		"half a body":  {bucket, func(s *scene) { s.through(half) }, fault.Transient},
		"too long": {bucket, func(s *scene) {
			s.through(func(r io.Reader) io.Reader { return io.MultiReader(r, endless{}) })
		}, none},
		"an index of more": {bucket, func(s *scene) {
			s.reindex(func(x *artifact.Index) {
				x.Size += x.FrameSize
				x.Frames = append(x.Frames[:len(x.Frames)-1], x.Frames[0], x.Frames[0])
				for i := range x.Frames {
					x.Frames[i].Codec, x.Frames[i].Length = artifact.Plain, x.FrameLen(i)
				}
			})
		}, none},
		"zip bomb":     {packed, (*scene).bomb, none},
		"another base": {[]string{delta}, (*scene).otherBase, none},
	} {
		of := lie.of
		if of == nil {
			of = append(bucket, peer)
		}
		for _, source := range of {
			t.Run(name+" from "+source, func(t *testing.T) {
				inBubble(t, func(t *testing.T, w *world) {
					s := &scene{world: w}
					s.was, s.is, s.want, s.key = updated(t, w, oms.Shards)
					file := w.files(s.want)["model.bin"].Digest
					o := func(*delivery.Options) {}
					switch source {
					case raw: // it is alone
						w.remove(artifact.IndexKey(artifact.FullKey(file)))
						w.remove(artifact.IndexKey(s.key))
						s.key = artifact.RawKey(file)
					case full:
						w.remove(artifact.IndexKey(s.key))
						s.key = artifact.FullKey(file)
						o = func(o *delivery.Options) { o.Metered = true }
					case peer:
						s.key, s.site = "", &site{sharers: 10, files: map[fleet.Digest][]byte{file: s.is["model.bin"]}}
						o = func(o *delivery.Options) { o.Peers = s.site }
					}
					lie.do(s)
					begin := time.Now()
					res, err := w.fetcher(o).Install(t.Context(), s.want, nil)
					if took := time.Since(begin); took > 3*time.Minute {
						t.Errorf("it took %v", took)
					}
					switch {
					case source == raw && lie.alone != none:
						if fault.KindOf(err) != lie.alone {
							t.Errorf("error is %v: %v", fault.KindOf(err), err)
						}
						if w.store.HasRelease(s.want.Key) {
							t.Error("the release is visible")
						}
					case err != nil:
						t.Fatal(err)
					default:
						w.holds(res.Dir, s.is)
					}
				})
			})
		}
	}
}

// However many sources there are, an outage is waited for once.
func TestAnOutageIsWaitedForOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, _, want, _ := updated(t, w, oms.Shards)
		w.src.open = func(string, int64, int64) error {
			return fault.Newf(fault.Transient, "read range", "key", "connection refused")
		}
		begin := time.Now()
		_, err := w.fetcher(func(o *delivery.Options) { o.Patience = time.Minute }).Install(t.Context(), want, nil)
		if took := time.Since(begin); !fault.Is(err, fault.Transient) || took > 75*time.Second {
			t.Errorf("it took %v: %v", took, err)
		}
	})
}

// A file that is signed as a whole, whose one object is wrong and whose other one
// is gone, ends in an error.
func TestWholeFilesWithNothingRightEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := model{"model.bin": weights(3*artifact.FrameSize, 3)}
		want := w.publish(m, oms.Files)
		file := w.files(want)["model.bin"].Digest
		w.tamper(artifact.RawKey(file), 5000)
		w.remove(artifact.FullKey(file))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := w.fetcher(func(o *delivery.Options) { o.Metered = true }).Install(ctx, want, nil)
		if !fault.Is(err, fault.Untrusted) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}

// A frame that an install wrote and the disk damaged since is no reason to look
// for it for ever: a neighbour that asks is given it from the bucket.
func TestADamagedFrameOfAnInstallIsFetchedForNeighbours(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := w.publish(model{"model.bin": noise(9*shard, 4)}, oms.Shards)
	first, last := ref(w, want, "model.bin", 0), ref(w, want, "model.bin", 8)
	wrote, asked := make(chan struct{}), make(chan struct{})
	w.src.body = func(ctx context.Context, _ string, off int64, rc io.ReadCloser) io.ReadCloser {
		if off != 8*shard {
			return rc
		}
		select { // the install does not end before the question was answered
		case <-asked:
		case <-ctx.Done():
		}
		return rc
	}
	f := w.fetcher(func(o *delivery.Options) { o.Streams = 9 })
	var once sync.Once
	installed := make(chan error, 1)
	go func() {
		_, err := f.Install(t.Context(), want, func(p delivery.Progress) {
			if p.Done == 8*shard {
				once.Do(func() { close(wrote) })
			}
		})
		installed <- err
	}()
	<-wrote
	part := delivery.PartPath(w.store.StagingDir(want.Key), last.File)
	corrupt(t, part, func(b []byte) []byte { b[99] ^= 1; return b })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dst := make([]byte, first.Length)
	err := f.Frame(ctx, want, first, dst)
	close(asked)
	if err != nil || sha256.Sum256(dst) != first.Digest {
		t.Errorf("asked for the damaged frame: %v", err)
	}
	if err := <-installed; err != nil {
		t.Log("the install:", err) // the next one mends the file
	}
}

// trickling is a source of which some objects begin and never end.
type trickling struct {
	*faulty
	suffix string
}

func (s trickling) Get(ctx context.Context, key, etag string) ([]byte, string, error) {
	if strings.HasSuffix(key, s.suffix) {
		<-ctx.Done()
		return nil, "", ctx.Err()
	}
	return s.faulty.Get(ctx, key, etag)
}

// An index that trickles in is not waited for for ever.
func TestAnIndexThatNeverEndsIsGivenUp(t *testing.T) {
	for suffix, ends := range map[string]bool{"/raw.idx": false, "/full.idx": true} {
		t.Run(suffix, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				m := model{"model.bin": weights(9*shard, 3)}
				want := w.publish(m, oms.Shards)
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				begin := time.Now()
				f := w.fetcher(func(o *delivery.Options) { o.Source = trickling{w.src, suffix} })
				res, err := f.Install(ctx, want, nil)
				if took := time.Since(begin); took > 15*time.Minute || fault.Is(err, fault.Transient) == ends {
					t.Fatalf("it took %v: %v", took, err)
				}
				if ends {
					w.holds(res.Dir, m)
				}
			})
		})
	}
}
