package telemetry

import "errors"

// Fetched counts verified bytes of releases by where they came from.
type Fetched struct {
	Copy   uint64 // were on the disk: in an earlier release, or left by a fetch that was interrupted
	Delta  uint64 // made from an earlier release and the difference to it, out of the bucket
	Peer   uint64 // from neighbours
	Bucket uint64 // from the bucket, compressed or plain
}

// Done is all of it.
func (f Fetched) Done() uint64 { return f.Copy + f.Delta + f.Peer + f.Bucket }

// Arrived is what came from elsewhere, which is what a rate is about: bytes that
// were here already say nothing of how long the others take.
func (f Fetched) Arrived() uint64 { return f.Done() - f.Copy }

// Add adds d to f.
func (f *Fetched) Add(d Fetched) {
	f.Copy += d.Copy
	f.Delta += d.Delta
	f.Peer += d.Peer
	f.Bucket += d.Bucket
}

// Delivery is what a member fetched, and what went wrong with it, since its boot
// epoch began. It only grows within an epoch.
type Delivery struct {
	Fetched
	Wire    uint64 // bytes taken from the bucket, wrong ones and repeats too
	Liars   uint64 // neighbours that were left out since they delivered what was not signed
	Damaged uint64 // files that were found damaged on the disk
	Liar    Prefix // the neighbour left out last; zero when Liars is
}

// Add adds the counts of d to those of c.
func (c *Delivery) Add(d Delivery) {
	c.Fetched.Add(d.Fetched)
	c.Wire += d.Wire
	c.Liars += d.Liars
	c.Damaged += d.Damaged
}

// Since is what was counted after before, an earlier row of the same epoch. A
// count that went back, which no honest member's does, counts as none.
func (c Delivery) Since(before Delivery) Delivery {
	a, b := c.counts(), before.counts()
	for i := range a {
		a[i] -= min(a[i], b[i])
	}
	d := deliveryOf(a)
	if d.Liars != 0 {
		d.Liar = c.Liar
	}
	return d
}

const numDelivery = 7

// counts are the numbers of a delivery in the order they travel.
func (c Delivery) counts() [numDelivery]uint64 {
	return [...]uint64{c.Copy, c.Delta, c.Peer, c.Bucket, c.Wire, c.Liars, c.Damaged}
}

func deliveryOf(n [numDelivery]uint64) Delivery {
	return Delivery{Fetched: Fetched{n[0], n[1], n[2], n[3]}, Wire: n[4], Liars: n[5], Damaged: n[6]}
}

// appendTo writes the counts up to the last that is not 0: most rows have none.
func (c Delivery) appendTo(b []byte) []byte {
	counts := c.counts()
	n := len(counts)
	for n > 0 && counts[n-1] == 0 {
		n--
	}
	b = append(b, byte(n))
	for _, v := range counts[:n] {
		b = appendUint(b, v)
	}
	if c.Liars != 0 {
		b = append(b, c.Liar[:]...)
	}
	return b
}

func parseDelivery(in *reader) Delivery {
	var counts [numDelivery]uint64
	for i := range in.below("number of delivery counts", numDelivery+1) {
		counts[i] = in.uint()
	}
	c := deliveryOf(counts)
	if c.Liars != 0 {
		c.Liar = in.prefix()
	}
	return c
}

func (c Delivery) check() error {
	for _, v := range c.counts() {
		if v > maxCount {
			return errors.New("a delivery count is out of range")
		}
	}
	return nil
}

// appendTo writes the counts of one fetch.
func (f Fetched) appendTo(b []byte) []byte {
	for _, v := range [...]uint64{f.Copy, f.Delta, f.Peer, f.Bucket} {
		b = appendUint(b, v)
	}
	return b
}

func parseFetched(in *reader) Fetched {
	return Fetched{Copy: in.uint(), Delta: in.uint(), Peer: in.uint(), Bucket: in.uint()}
}
