// Package proctest runs the fleet's programs as processes, for the tests and the
// demo that prove it: it starts and ends them, keeps what they say, waits for what
// they come to, and gives out ports that are theirs alone.
//
//	var g proctest.Group
//	defer g.End(syscall.SIGKILL, proctest.Patience)
//	p := &proctest.Program{Name: "cam-1", Args: []string{"modelfleet-agent", ...}, Log: "cam-1.log"}
//	err := g.Start(p)
//	err = proctest.Until(ctx, proctest.Patience, "cam-1 serves", func() (bool, error) { ... })
//
// A process lives in a group of its own, so that what it started ends with it, and
// the kernel kills it when the program that started it ends in any way (on Linux).
package proctest
