package weights

import (
	"encoding/binary"
	"math"
)

// block is how many weights of a GGUF quantisation share a scale.
const block = 32

// bf16 rounds to the nearest bfloat16, ties to even.
func bf16(v float32) uint16 {
	bits := math.Float32bits(v)
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// f16 rounds to the nearest IEEE half, ties to even; weights are finite.
func f16(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	abs := math.Float32frombits(bits &^ (1 << 31))
	switch {
	case abs >= 65520:
		return sign | 0x7c00
	case abs < 1.0/(1<<14): // below the normal numbers a step is 2^-24
		return sign | uint16(math.RoundToEven(float64(abs)*(1<<24)))
	}
	bits = math.Float32bits(abs)
	bits += 0xfff + bits>>13&1
	return sign | uint16(bits>>13-(127-15)<<10)
}

// fromF16 is the value of a finite half.
func fromF16(h uint16) float32 {
	exponent, fraction := int(h>>10&31), float64(h&1023)
	v := math.Ldexp(fraction, -24)
	if exponent > 0 {
		v = math.Ldexp(1024+fraction, exponent-25)
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return float32(v)
}

func appendBF16(b []byte, data []float32) []byte {
	for _, v := range data {
		b = binary.LittleEndian.AppendUint16(b, bf16(v))
	}
	return b
}

func appendF16(b []byte, data []float32) []byte {
	for _, v := range data {
		b = binary.LittleEndian.AppendUint16(b, f16(v))
	}
	return b
}

// quantizeRows gives each row the scale that maps its greatest weight to 127.
func quantizeRows(t Tensor) (q []byte, scales []float32) {
	for r := range t.Rows {
		row := t.Data[r*t.Cols : (r+1)*t.Cols]
		_, greatest := extremes(row)
		scale := greatest / 127
		scales = append(scales, scale)
		for _, v := range row {
			q = append(q, byte(int8(divide(v, scale))))
		}
	}
	return q, scales
}

// appendQ8 is GGML's Q8_0: the scale as a half, then 32 signed bytes.
func appendQ8(b []byte, data []float32) []byte {
	for ; len(data) >= block; data = data[block:] {
		_, greatest := extremes(data[:block])
		scale := greatest / 127
		b = binary.LittleEndian.AppendUint16(b, f16(scale))
		for _, v := range data[:block] {
			b = append(b, byte(int8(divide(v, scale))))
		}
	}
	return b
}

// appendQ4 is GGML's Q4_0: the scale as a half, then 16 bytes, each with weight
// i in its low and weight i+16 in its high half. The weight farthest from zero
// becomes 0 of 0..15, so the scale carries its sign.
func appendQ4(b []byte, data []float32) []byte {
	for ; len(data) >= block; data = data[block:] {
		far, _ := extremes(data[:block])
		scale := far / -8
		b = binary.LittleEndian.AppendUint16(b, f16(scale))
		var inverse float32
		if scale != 0 {
			inverse = 1 / scale
		}
		nibble := func(v float32) byte { return byte(min(15, int(float32(v*inverse)+8.5))) }
		for i := range block / 2 {
			b = append(b, nibble(data[i])|nibble(data[i+block/2])<<4)
		}
	}
	return b
}

// extremes is the weight farthest from zero, and how far it is.
func extremes(data []float32) (far, distance float32) {
	for _, v := range data {
		if a := float32(math.Abs(float64(v))); a > distance {
			far, distance = v, a
		}
	}
	return far, distance
}

func divide(v, scale float32) int {
	if scale == 0 {
		return 0
	}
	return int(math.Round(float64(v / scale)))
}
