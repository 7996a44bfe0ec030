package telemetry

import "math"

// The member's test of itself: alarm when the mean over the ratios of
// exp(log likelihood) reaches alarmAt. It may be looked at after every window:
// the chance that it ever alarms while nothing got worse is below 1/alarmAt.
const (
	alarmAt   = 1000
	rateFloor = 0.002 // errored windows per window
)

// selfTest compares errored windows with the member's own past, as an e-process
// over the ratios 3, 10 and 30. The zero value has no past and never alarms.
type selfTest struct {
	rate    float64 // errored windows per window, from the pre-period
	ll      [3]float64
	alarmed bool
	told    bool
}

func ratios() [3]float64 { return [3]float64{3, 10, 30} }

// newSelfTest takes the pre-period: so many windows, of them so many errored.
func newSelfTest(windows, errored uint64) selfTest {
	if windows == 0 {
		return selfTest{}
	}
	// One more errored window than was seen: a short past must not make the
	// first error look like a catastrophe.
	return selfTest{rate: max(float64(errored+1)/float64(windows+1), rateFloor)}
}

// window takes one window and reports whether the member has alarmed by now.
func (t *selfTest) window(errored bool) bool {
	if t.rate == 0 || t.alarmed {
		return t.alarmed
	}
	sum := 0.0
	for j, r := range ratios() {
		if errored {
			t.ll[j] += math.Log(r)
		}
		t.ll[j] -= t.rate * (r - 1)
		sum += math.Exp(t.ll[j])
	}
	t.alarmed = sum/float64(len(t.ll)) >= alarmAt
	return t.alarmed
}

// newAlarm reports an alarm once.
func (t *selfTest) newAlarm() bool {
	fresh := t.alarmed && !t.told
	t.told = t.told || fresh
	return fresh
}
