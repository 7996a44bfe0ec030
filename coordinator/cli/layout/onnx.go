package layout

import (
	"encoding/binary"
	"io"
	"strconv"
)

// The fields of ONNX's protobuf messages that lead to weights (onnx.proto).
const (
	modelGraph       = 7
	graphInitializer = 5
	tensorFloats     = 4
	tensorInts       = 5
	tensorLongs      = 7
	tensorName       = 8
	tensorRaw        = 9
	tensorDoubles    = 10
	tensorExternal   = 13
	entryKey         = 1
	entryValue       = 2
)

// onnx finds the graph's initializers: their bytes in this file, or where in
// another one they are.
func onnx(src io.ReaderAt, size int64) (here []Tensor, elsewhere []external, err error) {
	m := &messages{src: src, left: 16 * maxTensors}
	err = m.fields(span{0, size}, func(n int, model span) error {
		if n != modelGraph {
			return nil
		}
		return m.fields(model, func(n int, graph span) error {
			if n != graphInitializer {
				return nil
			}
			t, e, err := m.tensor(graph)
			switch {
			case err != nil:
				return err
			case e.location != "":
				elsewhere = append(elsewhere, e)
			case t.Name != "" && t.Length > 0:
				here = append(here, t)
			}
			return nil
		})
	})
	return here, elsewhere, err
}

// messages reads protobuf messages of a file, so many fields at most.
type messages struct {
	src  io.ReaderAt
	left int
}

func (m *messages) tensor(msg span) (t Tensor, e external, err error) {
	e.Length = -1
	err = m.fields(msg, func(n int, v span) error {
		switch n {
		case tensorName:
			name, err := m.text(v)
			t.Name, e.Name = name, name
			return err
		case tensorRaw, tensorFloats, tensorInts, tensorLongs, tensorDoubles:
			if v.length() > t.Length {
				t.Offset, t.Length = v.from, v.length()
			}
		case tensorExternal:
			return m.entry(&e, v)
		}
		return nil
	})
	return t, e, err
}

// entry reads one key and value of where a tensor's data is.
func (m *messages) entry(e *external, msg span) error {
	var key, value string
	err := m.fields(msg, func(n int, v span) (err error) {
		switch n {
		case entryKey:
			key, err = m.text(v)
		case entryValue:
			value, err = m.text(v)
		}
		return err
	})
	if err != nil {
		return err
	}
	switch key {
	case "location":
		e.location = value
	case "offset":
		e.Offset, err = strconv.ParseInt(value, 10, 64)
	case "length":
		e.Length, err = strconv.ParseInt(value, 10, 64)
	}
	return err
}

// span is a part of a file.
type span struct{ from, to int64 }

func (s span) length() int64 { return s.to - s.from }

// text reads a short string.
func (m *messages) text(s span) (string, error) {
	if s.length() > 4096 {
		return "", errUnknown
	}
	b := make([]byte, s.length())
	if n, err := m.src.ReadAt(b, s.from); n < len(b) {
		return "", err
	}
	return string(b), nil
}

// fields calls found with each length-delimited field of the protobuf message at
// s, and steps over the others (protobuf.dev/programming-guides/encoding).
func (m *messages) fields(s span, found func(number int, value span) error) error {
	for s.from < s.to {
		var buf [2 * binary.MaxVarintLen64]byte
		if m.left--; m.left < 0 {
			return errUnknown
		}
		n, err := m.src.ReadAt(buf[:min(int64(len(buf)), s.length())], s.from)
		if n == 0 {
			return err
		}
		tag, taken := binary.Uvarint(buf[:n])
		if taken <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return errUnknown
		}
		s.from += int64(taken)
		value, width := binary.Uvarint(buf[taken:n])
		switch tag & 7 {
		case 0: // a number
			if width <= 0 {
				return errUnknown
			}
			s.from += int64(width)
		case 1: // 8 bytes
			s.from += 8
		case 5: // 4 bytes
			s.from += 4
		case 2: // length and bytes
			length, ok := toInt(value)
			s.from += int64(width)
			if width <= 0 || !ok || length > s.length() {
				return errUnknown
			}
			if err := found(int(tag>>3), span{s.from, s.from + length}); err != nil {
				return err
			}
			s.from += length
		default: // groups are not used
			return errUnknown
		}
	}
	if s.from > s.to {
		return errUnknown
	}
	return nil
}
