// Package e2e tests the whole line with the real programs, as processes on
// loopback: scripts in testdata, and the dashboard in a real browser. The test
// binary is every program under its own name, so nothing else is built.
package e2e
