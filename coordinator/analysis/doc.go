// Package analysis is the gates of a rollout: it judges the exposed members
// against a concurrent control. It is pure: no I/O, no clock, no randomness.
// The same evidence gives the same verdict, byte for byte, on another day and
// machine.
//
//	counters by member ──▶ Evidence ──▶ Evaluate(cfg, state) ──▶ state', Verdict
//
// The caller may look as often as it likes. Everything is an e-process: a
// number that starts at 1 and, when the release is healthy, stays below
// 1/alpha for ever with probability at least 1-alpha. The gates' numbers are
// combined as a weighted mean, which is an e-process again, so a rollout's
// chance of a false rollback is alpha however many gates it has. Package
// analysis/evalue has the mathematics. All weights are fixed beforehand: of
// gates and their parts, of stages (the first have most: a bad release must be
// caught there, by few members) and of the looks within a stage.
//
// The member is the unit of evidence. Devices differ, and their errors come in
// bursts; a test that counts requests takes those differences for evidence and
// rolls back a third of healthy releases. So members are compared by rank, each
// with its own past taken off, and members' first alarms and first fatal events
// are counted once.
//
// What is not enough to fail may still be suspicious. Nothing passes then, for
// passing spends no alpha and can afford to wait.
package analysis
