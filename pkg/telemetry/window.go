package telemetry

import (
	"bytes"
	"crypto"
	"errors"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// MaxWindow bounds an encoded window in bytes, with its signature.
const MaxWindow = 1088

// Metric says what a sketch measured.
type Metric uint8

// The metrics. Their numbers are on the wire.
const (
	Latency    Metric = 1 + iota // microseconds
	Score                        // the model's score, millionths
	endMetrics                   // numbers from here on are not known
)

// String is the metric's name.
func (m Metric) String() string {
	switch m {
	case Latency:
		return "latency"
	case Score:
		return "score"
	default:
		return "unknown"
	}
}

// WindowKey names one window of one metric of one member. At most one window is
// ever counted for a key.
type WindowKey struct {
	Key   KeyID
	Epoch uint64
	Index uint64 // Unix seconds of its begin, divided by Width
	Width uint64 // seconds
	SeriesKey
	Metric Metric
}

// Window is what a member measured in one closed span of time. Once sent it
// never changes.
type Window struct {
	WindowKey
	Sketch *Sketch
}

// Sign encodes the window and signs it with the key that WindowKey.Key names.
func (w Window) Sign(fleetName string, key crypto.Signer) ([]byte, error) {
	body := w.appendTo(make([]byte, 0, 512))
	if _, err := parseWindowBody(body); err != nil {
		return nil, fault.New(fault.Invalid, "encode window", w.Key.String(), err)
	}
	return Seal(WindowDomain, fleetName, key, body)
}

// ParseWindow reads a signed window and does not check its signature.
func ParseWindow(msg []byte) (Window, error) {
	if len(msg) > MaxWindow || len(msg) < SignatureSize {
		return Window{}, fault.Newf(fault.Invalid, "read window", "", "%d bytes", len(msg))
	}
	w, err := parseWindowBody(msg[:len(msg)-SignatureSize])
	if err != nil {
		return Window{}, fault.New(fault.Invalid, "read window", "", err)
	}
	return w, nil
}

func (w Window) appendTo(b []byte) []byte {
	b = append(b, KindWindow, version)
	b = append(b, w.Key[:]...)
	b = appendUint(b, w.Epoch)
	b = appendUint(b, w.Index)
	b = appendUint(b, w.Width)
	b = append(b, w.Release[:]...)
	b = append(b, w.Rollout[:]...)
	b = append(b, byte(w.Arm), byte(w.Metric))
	return w.Sketch.Append(b)
}

func parseWindowBody(body []byte) (Window, error) {
	in := &reader{b: body}
	in.header(KindWindow)
	w := Window{WindowKey: WindowKey{
		Key: KeyID(in.prefix()), Epoch: in.uint(), Index: in.uint(), Width: in.uint(),
		SeriesKey: SeriesKey{Release: in.prefix(), Rollout: in.prefix(), Arm: fleet.Arm(in.below("arm", numArms))},
		Metric:    Metric(in.below("metric", int(endMetrics))),
	}}
	if in.err != nil {
		return Window{}, in.err
	}
	s, err := parseSketch(in.b)
	if err != nil {
		return Window{}, err
	}
	w.Sketch = s
	switch {
	case w.Metric == 0:
		return Window{}, errors.New("metric 0 is not known")
	case w.Epoch == 0 || w.Width == 0 || w.Width > maxCount || w.Index > maxCount:
		return Window{}, errors.New("a number is out of range")
	case s.n == 0:
		return Window{}, errors.New("nothing was counted")
	case !bytes.Equal(w.appendTo(make([]byte, 0, len(body))), body):
		return Window{}, errCanonical
	}
	return w, nil
}
