// Package lambdasim runs a Lambda function on this machine as AWS would: real
// processes, the real Runtime and Extensions APIs over HTTP, and execution
// environments that are frozen between invocations. It is for tests and
// demonstrations, needs no container, no root and nothing of AWS, and knows
// nothing of modelfleet.
//
//	f, err := lambdasim.New(lambdasim.Options{Command: []string{"./bootstrap"}})
//	...
//	defer f.Close(ctx)
//	resp, err := f.Invoke(ctx, []byte(`{"n": 1}`)) // starts an environment
//	resp, err = f.Invoke(ctx, []byte(`{"n": 2}`))  // thaws the same one
//
// What it promises:
//
//   - An environment is the runtime process and its extensions, each in a process
//     group of its own. When the runtime and every extension wait in Next, all are
//     stopped (SIGSTOP); before the next event they are continued (SIGCONT).
//   - A response is given to the caller as soon as the runtime has posted it; the
//     environment stays busy until everyone waits in Next again.
//   - Invocations that find no idle environment start one, up to a limit; above it
//     they are throttled.
//   - Initialization has 10 s; one that fails or overruns is repeated inside the
//     invocation, under the function's timeout. An invocation that overruns its
//     timeout, or whose process exits, is answered with AWS's error and resets the
//     environment: the processes end, /tmp (TMPDIR) stays.
//   - At shutdown a function without extensions is killed at once; with an internal
//     one it gets SIGTERM and 500 ms; with external ones SIGTERM, a SHUTDOWN
//     event for them, and 2 s together.
//   - Processes end with the one that started them, even when that is killed (Linux).
//
// Not here yet: the Telemetry API (subscribing answers 202 Telemetry.NotSupported,
// as AWS's own emulator does) and managed instances.
package lambdasim
