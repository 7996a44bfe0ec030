// Package probe judges a release on the device itself: by a self-test before it
// is served ([Test]) and by watching it after ([Watch]).
//
// A self-test is a command, an HTTP endpoint or both, chosen by the device's
// integrator; it finds the release's files at the path it is given. A release
// may carry golden inputs (selftest.json by convention): they are files like
// others, and the integrator's command reads them. Without command and URL the
// test is that every file can be opened and read where it lies.
//
// A verdict tells a bad release from a device that could not run the test: only
// the first counts against the release.
package probe
