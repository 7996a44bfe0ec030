package web

import (
	"math"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
)

func TestNumbersForPeople(t *testing.T) {
	for got, want := range map[string]string{
		percent(0): "0 %", percent(0.0612): "6.1 %", percent(0.00042): "0.04 %", percent(1): "100 %", percent(math.NaN()): "–",
		millis(0.0021): "2.1 ms", millis(0.000045): "45 µs", millis(1.5): "1.5 s", millis(0): "0",
		size(900): "900 B", size(18_400_256): "17.5 MiB", count(1234567): "1\u202f234\u202f567", count(12): "12",
		chart.Duration(90 * time.Second): "1m 30s", chart.Duration(26 * time.Hour): "1d 2h", chart.Duration(0): "0ms", chart.Duration(3 * time.Second): "3s",
		chart.Number(0.42): "0.42", chart.Number(214): "214", chart.Number(41.26): "41.3", chart.Number(2.5e7): "2.5e+07",
		plural(1, "member"): "1 member", plural(3, "member"): "3 members", words("RollingBack"): "rolling back",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
