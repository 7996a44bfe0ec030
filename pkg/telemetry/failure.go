package telemetry

// FailureCode says in a row what failed; fleet.FailureClass says whose fault it is.
type FailureCode uint8

// The failure codes. Their numbers are on the wire; new ones are added at the end.
const (
	CodeNone         FailureCode = iota
	CodeSelfTest                 // the self-test before the switch failed
	CodeLoad                     // the application could not load the release
	CodeCrashLoop                // the application crashed again and again
	CodeUnhealthy                // the application's requests failed in a row
	CodeSilent                   // nothing was heard after the switch
	CodeNetwork                  // fetching did not succeed
	CodeThrottled                // a server asked to come later, for too long
	CodeCorrupt                  // bytes did not match the signed digests
	CodeUntrusted                // signatures or rules refused the release
	CodeDiskFull                 // no room
	CodeIncompatible             // no variant fits, or the agent is too old
	CodeClock                    // the clock is not credible
	CodeIO                       // reading or writing the disk failed
	CodeCanceled                 // the offer was withdrawn meanwhile
	CodeInternal                 // a bug
	CodeGate                     // it did not fail here: the gates of a rollout failed it
	CodeNoSource                 // the agent was given no way to the bucket
	CodeMissing                  // the bucket has no such object
	CodeWindow                   // no failure: it waits for its download window
	numCodes
)

var codeNames = [numCodes]string{
	"", "self-test", "load", "crash-loop", "unhealthy", "silent", "network", "throttled",
	"corrupt", "untrusted", "disk-full", "incompatible", "clock", "io", "canceled", "internal", "gate", "no-source",
	"missing", "download-window",
}

// String is the code's name; CodeNone is empty.
func (c FailureCode) String() string {
	if c < numCodes {
		return codeNames[c]
	}
	return "unknown"
}

// ParseFailureCode is the inverse of [FailureCode.String]; an unknown name is
// CodeInternal.
func ParseFailureCode(name string) FailureCode {
	for c, n := range codeNames {
		if n == name {
			return FailureCode(c)
		}
	}
	return CodeInternal
}
