package delivery

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// journal remembers which frames of an install were verified and written, so
// that the next attempt knows where to look. It is advice: it is not synced,
// may end in the middle of a record, and each frame it names is hashed again.
//
// A record is 16 bytes: the first 8 of the file's digest, the frame (u32,
// little-endian), 4 zero bytes.
type journal struct {
	f *os.File
}

const journalRecord = 16

type journalKey [8]byte

func keyOf(d fleet.Digest) journalKey { return journalKey(d[:8]) }

func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, cas.Classify("open journal", path, err)
	}
	return &journal{f}, nil
}

// add records a frame.
func (j *journal) add(file fleet.Digest, frame int) error {
	_, err := j.f.Write(encodeRecord(file, frame))
	return cas.Classify("write journal", j.f.Name(), err)
}

func (j *journal) close() error { return j.f.Close() }

func encodeRecord(file fleet.Digest, frame int) []byte {
	var r [journalRecord]byte
	copy(r[:8], file[:8])
	binary.LittleEndian.PutUint32(r[8:], uint32(frame))
	return r[:]
}

// readJournal returns the frames a journal names, by file; a missing journal
// names none.
func readJournal(path string) (map[journalKey][]int, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cas.Classify("read journal", path, err)
	}
	return parseJournal(b), nil
}

func parseJournal(b []byte) map[journalKey][]int {
	frames := map[journalKey][]int{}
	for ; len(b) >= journalRecord; b = b[journalRecord:] {
		k := journalKey(b[:8])
		frames[k] = append(frames[k], int(binary.LittleEndian.Uint32(b[8:])))
	}
	return frames
}
