package telemetry

import (
	"errors"
	"math"
	"math/bits"
)

// A sketch's buckets: values below 16 have one each, larger ones share one with
// those that have the same leading 5 bits.
const (
	subBits    = 4
	numBuckets = (64 - subBits + 1) << subBits
	// MaxSketch bounds an encoded sketch in bytes.
	MaxSketch = 900
	// maxSamples keeps merged counts inside 64 bits.
	maxSamples = 1 << 40
)

// Sketch is a histogram of integers with log-linear buckets: at most 1/32
// relative error at a bucket's middle, in integer arithmetic only, so that every
// CPU puts every value in the same bucket and encodes the same bytes. Units are
// microseconds for latency and millionths for scores. The zero value is empty.
// It is not safe for concurrent use.
type Sketch struct {
	counts []uint64 // by bucket, up to the highest in use
	n      uint64
}

// Bucket is the index of the bucket that holds v.
func Bucket(v uint64) int {
	if v < 1<<subBits {
		return int(v)
	}
	e := bits.Len64(v) - 1
	return (e-subBits+1)<<subBits + int(v>>(e-subBits)&(1<<subBits-1))
}

// BucketBounds is the least and the largest value of a bucket.
func BucketBounds(i int) (lo, hi uint64) {
	if i < 1<<subBits {
		return uint64(i), uint64(i)
	}
	shift := i>>subBits - 1
	lo = uint64(1<<subBits|i&(1<<subBits-1)) << shift
	return lo, lo + 1<<shift - 1
}

// Add counts one value.
func (s *Sketch) Add(v uint64) {
	i := Bucket(v)
	if i >= len(s.counts) {
		s.grow(i)
	}
	s.counts[i]++
	s.n++
}

// grow makes room for bucket i, with headroom for its octave.
func (s *Sketch) grow(i int) {
	n := min((i|(1<<subBits-1))+1, numBuckets)
	s.counts = append(s.counts, make([]uint64, n-len(s.counts))...)
}

// Count is how many values were counted.
func (s *Sketch) Count() uint64 { return s.n }

// Merge counts everything that o counted.
func (s *Sketch) Merge(o *Sketch) {
	if len(o.counts) > len(s.counts) {
		s.grow(len(o.counts) - 1)
	}
	for i, c := range o.counts {
		s.counts[i] += c
	}
	s.n += o.n
}

// Quantile is the middle of the bucket that holds the value of rank
// max(1, ceil(q*Count)); 0 when nothing was counted.
func (s *Sketch) Quantile(q float64) uint64 {
	if s.n == 0 {
		return 0
	}
	rank := min(max(uint64(math.Ceil(q*float64(s.n))), 1), s.n)
	for i, c := range s.counts {
		if c >= rank {
			lo, hi := BucketBounds(i)
			return lo + (hi-lo)/2
		}
		rank -= c
	}
	return 0 // not reached: counts sum up to n
}

// Above counts the values in the buckets above v's own. It is exact when v is
// the upper bound of its bucket, as latency edges are.
func (s *Sketch) Above(v uint64) uint64 {
	var n uint64
	for i := Bucket(v) + 1; i < len(s.counts); i++ {
		n += s.counts[i]
	}
	return n
}

// Buckets calls f for each bucket in use, in order.
func (s *Sketch) Buckets(f func(lo, hi, count uint64)) {
	for i, c := range s.counts {
		if c > 0 {
			lo, hi := BucketBounds(i)
			f(lo, hi, c)
		}
	}
}

// Append appends the sketch's encoding, which is canonical: the same counts
// give the same bytes.
func (s *Sketch) Append(b []byte) []byte {
	b = append(b, subBits)
	prev := -1
	for i, c := range s.counts {
		if c == 0 {
			continue
		}
		gap := uint64(i-prev-1) << 1
		if c == 1 {
			b = appendUint(b, gap|1)
		} else {
			b = appendUint(appendUint(b, gap), c)
		}
		prev = i
	}
	return b
}

func parseSketch(b []byte) (*Sketch, error) {
	if len(b) > MaxSketch {
		return nil, errors.New("too long")
	}
	in := &reader{b: b}
	if k := in.byte(); in.err == nil && k != subBits {
		return nil, errors.New("its buckets are not of 4 bits")
	}
	s := &Sketch{}
	prev := -1
	for in.err == nil && len(in.b) > 0 {
		v := in.minimal()
		gap, c := v>>1, uint64(1)
		if v&1 == 0 {
			if c = in.minimal(); in.err == nil && c < 2 {
				return nil, errCanonical
			}
		}
		if gap >= numBuckets || c > maxSamples {
			return nil, errors.New("out of range")
		}
		i := prev + 1 + int(gap)
		if i >= numBuckets || s.n+c > maxSamples {
			return nil, errors.New("out of range")
		}
		if i >= len(s.counts) {
			s.grow(i)
		}
		s.counts[i] = c
		s.n += c
		prev = i
	}
	return s, in.end()
}

// minimal reads a number and refuses one that was written longer than it needs.
func (r *reader) minimal() uint64 {
	before := len(r.b)
	v := r.uint()
	if r.err == nil && before-len(r.b) != max(1, (bits.Len64(v)+6)/7) {
		r.fail(errCanonical)
	}
	return v
}
