// Package evalue is evidence that may be looked at at any time: e-values, and
// what makes them of p-values and of counts. An e-value is a number that is not
// negative and whose mean is at most 1 when the hypothesis holds; a process of
// them stays below 1/alpha for ever with probability at least 1-alpha (Ville).
// Weighted means of e-values are e-values again, whatever the dependence
// between them, which is how a rollout's looks, stages and gates are combined.
//
//   - [Process] counts events in two arms, one batch after the other.
//   - [RankTest] compares two arms by rank: the exact law of all the ways to
//     draw the exposed members where they are few, an approximation otherwise.
//   - [Looks] adds up such tests, each with a weight fixed beforehand.
//
// The package knows no rollout and no member. It is pure: no I/O, no clock, no
// randomness.
package evalue
