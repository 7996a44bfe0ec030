package delta

import "github.com/modelfleet/modelfleet/pkg/fault"

// Decoder unpacks frames. It keeps its scratch memory, a little over 1 MiB,
// between frames and is not safe for concurrent use.
type Decoder struct {
	slots   [maxTables]slots
	rans    ransReader
	words   int // length of the rANS stream
	bits    bitReader
	model   model
	tab     table
	table   [groupSize]*slots // of the group's symbols
	sym     [groupSize]uint8  // the group's symbols
	classes [9]*classes       // by width
}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	d := new(Decoder)
	for _, w := range widths {
		d.classes[w] = newClasses(w)
	}
	return d
}

// Decode unpacks packed into dst, whose length is exactly that of the plain
// frame. The base is the one the frame was packed against, nil if there was
// none; dst must not overlap it. Bytes that are no frame of that length give a
// fault.Invalid error or wrong bytes, never a panic and never more than bounded
// time and memory: the caller hashes what it got. After an error dst holds
// garbage.
func (d *Decoder) Decode(dst, packed, base []byte) error {
	if base != nil && len(base) != len(dst) {
		return corrupt("its base has another length")
	}
	for len(dst) > 0 {
		h, rest, ok := readHead(packed, len(dst), base != nil)
		if !ok {
			return corrupt("bad block")
		}
		var b []byte
		if base != nil {
			b, base = base[:h.plain], base[h.plain:]
		}
		if !d.block(dst[:h.plain], rest[:h.packed], b, h) {
			return corrupt("bad " + h.mode.String() + " block")
		}
		packed, dst = rest[h.packed:], dst[h.plain:]
	}
	if len(packed) != 0 {
		return corrupt("bytes after the last block")
	}
	return nil
}

func corrupt(what string) error {
	return fault.Newf(fault.Invalid, "unpack frame", "", "%s", what)
}

// block decodes one block; dst, in and base have the lengths that h tells.
func (d *Decoder) block(dst, in, base []byte, h head) bool {
	switch h.mode {
	case modeRaw:
		copy(dst, in)
		return true
	case modeCopy:
		copy(dst, base)
		return true
	}
	// The bytes before the first and after the last whole group are as they are.
	from, to := h.whole()
	edge := from + len(dst) - to
	if len(in) < edge || from == to {
		return false
	}
	copy(dst[:from], in)
	copy(dst[to:], in[from:edge])
	dst, in = dst[from:to], in[edge:]
	switch h.mode {
	case modeSelf:
		return d.self(dst, in, h.width)
	case modeDiff:
		return d.diff(dst, in, base[from:to], h.width)
	default:
		return d.stride(dst, in, base[from:to], &layouts[h.layout])
	}
}

// openHeader reads the front of a payload up to and with the tables, and says
// how many there are.
func (d *Decoder) openHeader(in []byte) (int, bool) {
	d.bits.reset(in)
	d.words = int(d.bits.get(24))
	n := int(d.bits.get(6)) + 1
	for i := range n {
		if !d.tab.read(&d.bits) {
			return 0, false
		}
		d.tab.fill(&d.slots[i])
	}
	return n, true
}

// openStreams begins the two streams that follow the header.
func (d *Decoder) openStreams(in []byte) bool {
	used := d.bits.used()
	if used+d.words > len(in) {
		return false
	}
	in = in[used:]
	d.bits.reset(in[d.words:])
	return d.rans.open(in[:d.words])
}

// done reports whether both streams ended where they should.
func (d *Decoder) done() bool { return d.rans.done() && d.bits.done() }
