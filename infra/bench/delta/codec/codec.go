// Package codec is the measured half of the delta benchmark. It packs and
// unpacks one published object frame by frame, in the memory that a member
// needs, and says how fast the codec alone was, by processor time.
package codec

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delta"
)

// passes of decoding, of which the median counts.
const passes = 5

// Speed is what was measured of one object: bytes of the plain file for a second
// of processor time, nothing but the codec counted.
type Speed struct{ MBps float64 }

// Run carries out one command:
//
//	encode|decode INDEX OBJECT FILE BASE
//	planes|unplanes -width N IN BASE OUT    the anchor that knows weights
func Run(verb string, args []string, out io.Writer) error {
	switch verb {
	case "planes":
		return planes(args, EncodePlanes)
	case "unplanes":
		return planes(args, DecodePlanes)
	}
	o, err := open(args)
	if err != nil {
		return err
	}
	step, n := o.decode, passes
	if verb == "encode" {
		step, n = o.encode, 1
	}
	var seconds []float64
	for range n {
		var spent time.Duration
		for i := range o.index.Frames {
			d, err := step(i)
			if err != nil {
				return fmt.Errorf("frame %d: %w", i, err)
			}
			spent += d
		}
		seconds = append(seconds, spent.Seconds())
	}
	return json.NewEncoder(out).Encode(Speed{MBps: float64(o.index.Size) / 1e6 / figure.Median(seconds)})
}

func planes(args []string, work func(in, base []byte, width int) ([]byte, error)) error {
	flags := flag.NewFlagSet("planes", flag.ExitOnError)
	width := flags.Int("width", 1, "bytes of an element")
	if err := flags.Parse(args); err != nil {
		return err
	}
	in, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	base, err := os.ReadFile(flags.Arg(1))
	if err != nil {
		return err
	}
	out, err := work(in, base, *width)
	if err != nil {
		return err
	}
	return os.WriteFile(flags.Arg(2), out, 0o644)
}

// object is a published object with the files it is about.
type object struct {
	index              artifact.Index
	packed, next, base *os.File // base is nil for an object that stands alone
	offset             []int64  // of each frame
	unpacker           *artifact.Unpacker
	encoder            *delta.Encoder
	buf                struct{ packed, next, base, out []byte }
}

func open(args []string) (o *object, err error) {
	o = &object{encoder: delta.NewEncoder()}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return nil, err
	}
	if o.index, err = artifact.ParseIndex(b); err != nil {
		return nil, err
	}
	for i, f := range []**os.File{&o.packed, &o.next, &o.base} {
		if i == 2 && o.index.Kind != artifact.Delta {
			break
		}
		if *f, err = os.Open(args[1+i]); err != nil {
			return nil, err
		}
	}
	at := int64(0)
	for _, f := range o.index.Frames {
		o.offset = append(o.offset, at)
		at += f.Length
	}
	o.unpacker, err = artifact.NewUnpacker(1)
	return o, err
}

// read fills a buffer from a file, reusing its memory.
func read(buf []byte, f io.ReaderAt, at, n int64) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := f.ReadAt(buf, at)
	if err == io.EOF {
		err = nil
	}
	return buf, err
}

// load reads frame i of the file, and what of the base it is packed against.
func (o *object) load(i int, spans []artifact.Region) (base []byte, err error) {
	n := o.index.FrameLen(i)
	if o.buf.next, err = read(o.buf.next, o.next, int64(i)*o.index.FrameSize, n); err != nil || len(spans) == 0 {
		return nil, err
	}
	if int64(cap(o.buf.base)) < n {
		o.buf.base = make([]byte, n)
	}
	o.buf.base = o.buf.base[:n]
	clear(o.buf.base)
	for _, s := range spans {
		if _, err := read(o.buf.base[s.New:s.New:s.New+s.Length], o.base, s.Base, s.Length); err != nil {
			return nil, err
		}
	}
	return o.buf.base, nil
}

func (o *object) decode(i int) (time.Duration, error) {
	base, err := o.load(i, o.index.BaseSpans(i))
	if err != nil {
		return 0, err
	}
	if o.buf.packed, err = read(o.buf.packed, o.packed, o.offset[i], o.index.Frames[i].Length); err != nil {
		return 0, err
	}
	if len(o.buf.out) < len(o.buf.next) {
		o.buf.out = make([]byte, len(o.buf.next))
	}
	out := o.buf.out[:len(o.buf.next)]
	began := cpu()
	err = o.unpacker.Unpack(out, o.buf.packed, base, o.index.Frames[i].Codec)
	took := cpu() - began
	if err == nil && !bytes.Equal(out, o.buf.next) {
		err = fmt.Errorf("what it unpacks to is not the file")
	}
	return took, err
}

// encode packs frame i again. A frame that was published without a base is
// packed against it all the same: that is what was tried.
func (o *object) encode(i int) (time.Duration, error) {
	var spans []artifact.Region
	if o.base != nil {
		x := o.index
		x.Frames = make([]artifact.Packed, len(o.index.Frames))
		x.Frames[i].Codec = artifact.TensorBase
		spans = x.BaseSpans(i)
	}
	base, err := o.load(i, spans)
	if err != nil {
		return 0, err
	}
	began := cpu()
	o.buf.packed = o.encoder.Encode(o.buf.packed[:0], o.buf.next, base)
	return cpu() - began, nil
}

// cpu is the processor time that this process has used: with one goroutine at
// work, and whatever else the machine does, the codec's own.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail for oneself
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
