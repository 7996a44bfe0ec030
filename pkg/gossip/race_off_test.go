//go:build !race

package gossip_test

// raceEnabled shortens what would take minutes under the race detector.
const raceEnabled = false
