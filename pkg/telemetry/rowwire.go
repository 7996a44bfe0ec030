package telemetry

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Flags of a model in a row.
const (
	modelRunning = 1 << iota // Running follows
	modelTarget              // Target follows; else it is Running
	modelRollout             // Rollout follows
	modelFailure             // Failure, Code and Failing follow
	modelBytes               // Total and Fetched follow
	modelFlags
)

// Flags of a series in a row; the arm is in the two bits above them.
const (
	seriesRelease = 1 << iota // Release follows; else it is the model's Running
	seriesRollout             // Rollout follows; else it is the model's
	seriesAlarm               // Alarm
	seriesLabels              // Right and Wrong follow
	seriesExceed              // Exceed follows
	seriesFatal               // Fatal follows
	seriesArm     = 6         // shift
)

const (
	numArms    = int(fleet.Control) + 1
	numPhases  = int(fleet.Withdrawn) + 1
	numClasses = int(fleet.ReleaseFailure) + 1
)

func (r Row) appendTo(b []byte) []byte {
	b = append(b, KindRow, version)
	b = append(b, r.Key[:]...)
	b = appendUint(b, r.Epoch)
	b = appendUint(b, r.Seq)
	b = appendUint(b, uint64(r.Time))
	b = appendUint(b, r.Directive)
	b = append(b, byte(r.Freshness)|r.Refusal<<2)
	b = appendUint(b, r.RSS)
	b = append(append(b, byte(len(r.Agent))), r.Agent...)
	b = r.Delivery.appendTo(b)
	b = r.Log.appendTo(b)
	b = append(b, byte(len(r.Models)))
	for _, m := range r.Models {
		b = m.appendTo(b)
	}
	return b
}

func (m Model) appendTo(b []byte) []byte {
	var flags byte
	flag := func(bit byte, on bool) {
		if on {
			flags |= bit
		}
	}
	flag(modelRunning, !m.Running.IsZero())
	flag(modelTarget, m.Target != m.Running)
	flag(modelRollout, !m.Rollout.IsZero())
	flag(modelFailure, m.Failure != 0 || m.Code != 0 || m.Failing != 0)
	flag(modelBytes, m.Fetched != Fetched{} || m.Total != 0)
	b = append(append(b, m.Model[:]...), flags, byte(m.Arm), byte(m.Phase))
	if flags&modelRunning != 0 {
		b = append(b, m.Running[:]...)
	}
	if flags&modelTarget != 0 {
		b = append(b, m.Target[:]...)
	}
	if flags&modelRollout != 0 {
		b = append(b, m.Rollout[:]...)
	}
	if flags&modelFailure != 0 {
		b = appendUint(append(b, byte(m.Failure), byte(m.Code)), uint64(m.Failing))
	}
	if flags&modelBytes != 0 {
		b = m.Fetched.appendTo(appendUint(b, m.Total))
	}
	b = append(b, byte(len(m.Series)))
	for _, s := range m.Series {
		b = s.appendTo(b, m)
	}
	return b
}

func (s Series) appendTo(b []byte, m Model) []byte {
	flags := byte(s.Arm) << seriesArm
	flag := func(bit byte, on bool) {
		if on {
			flags |= bit
		}
	}
	flag(seriesRelease, s.Release != m.Running)
	flag(seriesRollout, s.Rollout != m.Rollout)
	flag(seriesAlarm, s.Alarm)
	flag(seriesLabels, s.Right != 0 || s.Wrong != 0)
	flag(seriesExceed, s.Exceed != [NumEdges]uint64{})
	flag(seriesFatal, s.Fatal != 0)
	b = append(b, flags)
	if flags&seriesRelease != 0 {
		b = append(b, s.Release[:]...)
	}
	if flags&seriesRollout != 0 {
		b = append(b, s.Rollout[:]...)
	}
	b = appendUint(b, uint64(s.Since))
	for _, v := range [...]uint64{s.Requests, s.Errors, s.Windows, s.ErrWindows} {
		b = appendUint(b, v)
	}
	if flags&seriesLabels != 0 {
		b = appendUint(appendUint(b, s.Right), s.Wrong)
	}
	if flags&seriesExceed != 0 {
		for _, v := range s.Exceed {
			b = appendUint(b, v)
		}
	}
	if flags&seriesFatal != 0 {
		b = appendUint(b, s.Fatal)
	}
	return b
}

func (l LogHead) appendTo(b []byte) []byte {
	b = appendUint(b, l.Size)
	if l.Size > 0 {
		b = append(b, l.Root[:]...)
	}
	return b
}

func parseLogHead(in *reader) LogHead {
	l := LogHead{Size: in.uint()}
	if l.Size > 0 {
		copy(l.Root[:], in.bytes(len(l.Root)))
	}
	return l
}

// parseRowBody is the inverse of appendTo: what it accepts encodes to body.
func parseRowBody(body []byte) (Row, error) {
	in := &reader{b: body}
	in.header(KindRow)
	r := Row{
		Key: KeyID(in.prefix()), Epoch: in.uint(), Seq: in.uint(),
		Time: int64(in.uint()), Directive: in.uint(),
	}
	stand := in.byte()
	r.Freshness, r.Refusal = Freshness(stand&3), stand>>2
	r.RSS = in.uint()
	r.Agent = string(in.bytes(in.below("agent's length", MaxAgent+1)))
	r.Delivery = parseDelivery(in)
	r.Log = parseLogHead(in)
	n := in.below("number of models", MaxModels+1)
	for range n {
		if in.err != nil {
			break
		}
		r.Models = append(r.Models, parseModel(in))
	}
	if err := in.end(); err != nil {
		return Row{}, err
	}
	if err := r.check(); err != nil {
		return Row{}, err
	}
	if !bytes.Equal(r.appendTo(make([]byte, 0, len(body))), body) {
		return Row{}, errCanonical
	}
	return r, nil
}

func parseModel(in *reader) Model {
	m := Model{Model: in.prefix()}
	flags := in.below("model flags", modelFlags)
	m.Arm = fleet.Arm(in.below("arm", numArms))
	m.Phase = fleet.Phase(in.below("phase", numPhases))
	if flags&modelRunning != 0 {
		m.Running = in.prefix()
	}
	m.Target = m.Running
	if flags&modelTarget != 0 {
		m.Target = in.prefix()
	}
	if flags&modelRollout != 0 {
		m.Rollout = in.prefix()
	}
	if flags&modelFailure != 0 {
		m.Failure = fleet.FailureClass(in.below("failure class", numClasses))
		m.Code = FailureCode(in.byte())
		m.Failing = int64(in.uint())
	}
	if flags&modelBytes != 0 {
		m.Total, m.Fetched = in.uint(), parseFetched(in)
	}
	n := in.below("number of series", MaxSeries+1)
	for range n {
		m.Series = append(m.Series, parseSeries(in, m))
	}
	return m
}

func parseSeries(in *reader, m Model) Series {
	flags := in.byte()
	s := Series{SeriesKey: SeriesKey{m.Running, m.Rollout, fleet.Arm(flags >> seriesArm)}}
	if int(s.Arm) >= numArms {
		in.fail(fmt.Errorf("arm %d is not known", s.Arm))
	}
	if flags&seriesRelease != 0 {
		s.Release = in.prefix()
	}
	if flags&seriesRollout != 0 {
		s.Rollout = in.prefix()
	}
	s.Since = int64(in.uint())
	s.Alarm = flags&seriesAlarm != 0
	s.Requests, s.Errors, s.Windows, s.ErrWindows = in.uint(), in.uint(), in.uint(), in.uint()
	if flags&seriesLabels != 0 {
		s.Right, s.Wrong = in.uint(), in.uint()
	}
	if flags&seriesExceed != 0 {
		for i := range s.Exceed {
			s.Exceed[i] = in.uint()
		}
	}
	if flags&seriesFatal != 0 {
		s.Fatal = in.uint()
	}
	return s
}

// maxCount keeps sums of many rows inside 64 bits.
const maxCount = 1 << 48

// check refuses rows that no honest member makes.
func (r Row) check() error {
	if r.Seq == 0 || r.Epoch == 0 {
		return errors.New("epoch and sequence begin at 1")
	}
	if r.Time < 0 || r.Time > maxCount {
		return errors.New("the time is out of range")
	}
	for _, c := range []byte(r.Agent) {
		if c <= ' ' || c > '~' {
			return errors.New("the agent's version is not printable ASCII")
		}
	}
	if err := r.Delivery.check(); err != nil {
		return err
	}
	for i, m := range r.Models {
		if i > 0 && bytes.Compare(r.Models[i-1].Model[:], m.Model[:]) >= 0 {
			return errors.New("models are not sorted")
		}
		if err := m.check(); err != nil {
			return err
		}
		seen := map[SeriesKey]bool{}
		for _, s := range m.Series {
			if seen[s.SeriesKey] {
				return errors.New("a series appears twice")
			}
			seen[s.SeriesKey] = true
			if err := s.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m Model) check() error {
	f := m.Fetched
	for _, v := range [...]uint64{uint64(m.Failing), f.Copy, f.Delta, f.Peer, f.Bucket, m.Total} {
		if v > maxCount {
			return errors.New("a number of a model is out of range")
		}
	}
	return nil
}

func (s Series) check() error {
	for _, v := range [...]uint64{uint64(s.Since), s.Requests, s.Windows, s.Right, s.Wrong, s.Fatal} {
		if v > maxCount {
			return errors.New("a counter is out of range")
		}
	}
	if s.Errors > s.Requests || s.ErrWindows > s.Windows || s.Windows > s.Requests {
		return errors.New("a part is larger than its whole")
	}
	for _, v := range s.Exceed {
		if v > s.Requests {
			return errors.New("a part is larger than its whole")
		}
	}
	return nil
}
