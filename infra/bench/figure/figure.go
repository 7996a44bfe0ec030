// Package figure is what every end-to-end benchmark produces: named values
// with a unit and, where there is one, the anchor they were measured against in
// the same run.
package figure

import (
	"slices"
)

// Figure is one measured value.
type Figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Anchor string  `json:"anchor,omitempty"` // what it is compared with
	Ratio  float64 `json:"ratio,omitempty"`  // value / the anchor's value, same run
}

// Options are what a benchmark may be asked for.
type Options struct {
	Quick bool                             // a shorter run: fewer rounds, smaller inputs
	Root  string                           // the repository
	Work  string                           // a folder for what it makes; removed afterwards
	Logf  func(format string, args ...any) // tells how far it is, and what was skipped
}

// Median is the middle of the values; of two middles the lower. It sorts a copy.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
