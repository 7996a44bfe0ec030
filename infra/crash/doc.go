// Package crash stops a member in the middle of an update, in every way it can be
// stopped, and looks at the whole disk afterwards.
//
//	World    keys, a bucket and the packs of three releases: what a member lives on
//	Member   an enrolled device's state folder, and the real agent on it as a process
//	Check    the whole disk: every visible release whole, every link, the state
//	Recover  what a start makes of such a disk, and how many bytes it fetches again
//
// The ways to stop it: [Member.Kill] at a random moment, [Inject] at the n-th call
// of a system call (a kill, or an error), infra/crash/trace and infra/crash/disk
// (every state that a power cut may leave by what was synced and what was not) and
// infra/crash/powercut (images of a real file system under a running agent).
//
// The promise that all of them try to break: applications are given the old or
// the new release, whole; the state is readable; what was verified need not be
// fetched again.
package crash
