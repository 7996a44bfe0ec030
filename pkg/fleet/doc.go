// Package fleet is the vocabulary of modelfleet: ids, member facts and labels,
// selectors, releases, the directive, exposure and the rollout's spec. Every
// other package speaks in these types.
//
// It imports the standard library, pkg/fault and pkg/strict only, does no I/O and
// reads no clock. Values are parsed once, at the edge ([ParseMemberID], [ParseSelector],
// [ParseSpec]); inside, invalid values do not exist.
//
// One idea carries the whole design: a decision does not list members. It is a
// [Directive] with a [Selector] and a [Bound], and each member computes its own
// [Position] and so knows whether it is exposed:
//
//	d.Models[0].Assign(facts) // what should I run, and why?
package fleet
