package telemetry

import (
	"bytes"
	"crypto"
	"os"
	"strconv"
	"time"
)

// Report signs what there is to say now: the windows that closed, and the next
// row, which it returns too. The row is the last of the messages.
func (r *Recorder) Report(now time.Time, fleetName string, key crypto.Signer) (messages [][]byte, row Row, err error) {
	for _, w := range r.Windows(now) {
		raw, err := w.Sign(fleetName, key)
		if err != nil {
			return nil, row, err
		}
		messages = append(messages, raw)
	}
	row = r.Row(now)
	raw, err := row.Sign(fleetName, key)
	return append(messages, raw), row, err
}

// ResidentKiB is the memory of this process, for [MemberState]; 0 where the
// system does not say.
func ResidentKiB() uint64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize()) / 1024
}
