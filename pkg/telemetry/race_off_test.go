//go:build !race

package telemetry_test

// raceEnabled shortens what would take minutes under the race detector.
const raceEnabled = false
