package delta_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// A pair is a tensor before and after an update, as files hold it. Weights are
// bell-shaped, rows of 64 move more or less and mostly one way, and some not
// at all. Only operations that every machine rounds alike are used.
type pair struct{ base, plain []byte }

// weights makes n elements of a kind; step is the size of the update in parts
// of 2^-20.
func weights(kind string, n int, step int64, seed uint64) pair {
	r := rand.New(rand.NewPCG(seed, 1))
	before, after := make([]float32, n), make([]float32, n)
	bell := func(scale int64) int64 {
		var v int64
		for range 6 {
			v += r.Int64N(2*scale+1) - scale
		}
		return v
	}
	var row, up int64
	for i := range before {
		if i%64 == 0 {
			row, up = r.Int64N(4)*step/2, 1-2*r.Int64N(2)
		}
		v := bell(20000)
		u := bell(max(row, 1)) / 3 * min(row, 1)
		if r.IntN(4) > 0 {
			u = up * max(u, -u)
		}
		before[i] = float32(v) / (1 << 20)
		after[i] = float32(v+u) / (1 << 20)
	}
	return pair{pack(kind, before), pack(kind, after)}
}

// pack turns weights into the bytes of a kind.
func pack(kind string, w []float32) []byte {
	var out []byte
	switch kind {
	case "fp32":
		for _, v := range w {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	case "fp64":
		for _, v := range w {
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(float64(v)))
		}
	case "bf16":
		for _, v := range w {
			u := math.Float32bits(v)
			out = binary.LittleEndian.AppendUint16(out, uint16((u+0x7fff+u>>16&1)>>16))
		}
	case "fp16":
		for _, v := range w {
			out = binary.LittleEndian.AppendUint16(out, half(v))
		}
	case "int8":
		for _, v := range w {
			out = append(out, byte(int8(max(-127, min(127, math.Round(float64(v*1200)))))))
		}
	case "q8_0":
		for ; len(w) >= 32; w = w[32:] {
			d := largest(w[:32]) / 127
			d = max(d, -d)
			out = binary.LittleEndian.AppendUint16(out, half(d))
			for _, v := range w[:32] {
				out = append(out, byte(int8(math.Round(float64(v/d)))))
			}
		}
	case "q4_0":
		for ; len(w) >= 32; w = w[32:] {
			d := largest(w[:32]) / -8
			out = binary.LittleEndian.AppendUint16(out, half(d))
			q := func(v float32) byte { return byte(min(15, math.Floor(float64(v/d)+8.5))) }
			for i := range 16 {
				out = append(out, q(w[i])|q(w[i+16])<<4)
			}
		}
	}
	return out
}

// largest is the element farthest from zero.
func largest(w []float32) float32 {
	m := float32(1) / (1 << 24)
	for _, v := range w {
		if max(v, -v) > max(m, -m) {
			m = v
		}
	}
	return m
}

// half rounds to half precision, towards zero.
func half(v float32) uint16 {
	u := math.Float32bits(v)
	sign, e, m := uint16(u>>16&0x8000), int(u>>23&255)-112, u>>13&0x3ff
	if e <= 0 {
		return sign
	}
	return sign | uint16(e)<<10 | uint16(m)
}
