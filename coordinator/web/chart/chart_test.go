package chart

import (
	"encoding/xml"
	"errors"
	"flag"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden drawings")

// golden compares a drawing with the one that was looked at and found good.
func golden(t *testing.T, name string, got template.HTML) {
	t.Helper()
	wellFormed(t, string(got))
	path := filepath.Join("testdata", name)
	text := strings.ReplaceAll(string(got), "><", ">\n<") + "\n" // a line an element, for diffs
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s differs (-want +got); look at it, then run with -update:\n%s", name, diff)
	}
}

func wellFormed(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, svg)
		}
	}
}

func percent(v float64) string { return Number(math.Round(1e8*v)/1e6) + " %" }

func millis(seconds float64) string {
	if seconds == 0 {
		return "0"
	}
	return Number(math.Round(1e6*seconds)/1e3) + " ms"
}

func ramp(n int, f func(i int) float64) []Point {
	pts := make([]Point, n)
	for i := range pts {
		pts[i] = Point{time.Duration(i) * 10 * time.Second, f(i)}
	}
	return pts
}

func TestPlotOfTwoArms(t *testing.T) {
	golden(t, "plot.svg", Plot{
		Title: "Error rate", Format: percent, Share: true, Span: 2 * time.Minute,
		Series: []Series{
			{"control", "control", ramp(13, func(i int) float64 { return 0.01 + 0.002*float64(i%3) })},
			{"exposed", "exposed", ramp(13, func(i int) float64 { return 0.01 * float64(1+i) })},
		},
		Marks: []Mark{{0, "lab"}, {20 * time.Second, "ten <of> 100"}, {25 * time.Second, "collides"}, {time.Hour, "beyond"}},
	}.SVG())
}

func TestPlotBreaksAtGapsAndKeepsLoneValues(t *testing.T) {
	svg := Plot{
		Title: "Latency", Format: millis, Span: time.Minute,
		Series: []Series{{"exposed", "exposed", ramp(7, func(i int) float64 {
			if i == 1 || i == 3 {
				return math.NaN()
			}
			return 0.004
		})}},
	}.SVG()
	golden(t, "plot-gaps.svg", svg)
	if strings.Contains(string(svg), "NaN") {
		t.Error("a gap was drawn as a number")
	}
}

func TestPlotOfNothingIsNothing(t *testing.T) {
	for _, p := range []Plot{{}, {Span: time.Minute, Series: []Series{{Points: ramp(3, func(int) float64 { return math.NaN() })}}}} {
		if svg := p.SVG(); svg != "" {
			t.Errorf("drew %s", svg)
		}
	}
}

// Whatever the values, ticks are few, in order, and enclose the data.
func TestScaleEnclosesItsValues(t *testing.T) {
	for _, vs := range [][]float64{{0}, {1}, {0, 1}, {0.95, 0.951}, {1e-9, 2e-9}, {3, 1e9}, {0.0098, 0.0102}, {0.5, 0.5}} {
		for _, near := range []bool{false, true} {
			p := Plot{Near: near, Series: []Series{{Points: ramp(len(vs), func(i int) float64 { return vs[i] })}}}
			lo, hi, ticks := p.scale()
			if len(ticks) < 2 || len(ticks) > 6 {
				t.Errorf("%v near=%t: ticks %v", vs, near, ticks)
			}
			for _, v := range vs {
				if v < lo-1e-12 || v > hi+hi*1e-9 {
					t.Errorf("%v near=%t: %g is outside [%g, %g]", vs, near, v, lo, hi)
				}
			}
		}
	}
}

func TestTimeTicksAreFew(t *testing.T) {
	for span := time.Second; span < 400*24*time.Hour; span = span*7/4 + time.Second {
		if n := span / timeStep(span); n < 1 || n > 6 {
			t.Errorf("span %v: %d steps of %v", span, n, timeStep(span))
		}
	}
}

func TestBars(t *testing.T) {
	golden(t, "share.svg", ShareBar("members by release", 50, []Segment{{"c1", "1.3.0", 10}, {"c2", "1.2.0", 0}, {"c3", `<1.1.0>`, 35}}))
	golden(t, "evidence.svg", EvidenceBar(214, 100, "bad"))
	if svg := EvidenceBar(1, 0, "good"); svg != "" {
		t.Errorf("a gate without a threshold was drawn: %s", svg)
	}
	wellFormed(t, string(ShareBar("", 0, nil)))
	wellFormed(t, string(EvidenceBar(math.Inf(1), 100, "bad")))
	wellFormed(t, string(EvidenceBar(2, 3, "warn")))
}
