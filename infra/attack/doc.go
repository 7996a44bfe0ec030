// Package attack breaks into a fleet of real programs, in every way that
// docs/guides/threat-model.md lists: one named test a row. The attacker's tools
// are here too: a bucket rewriter, a forger that signs with stolen keys, a
// neighbour that lies, a machine in the middle. Each test says what is refused and
// by which rule, that members keep serving what they had, where people see it, and
// that the fleet goes on when the attack ends.
package attack
