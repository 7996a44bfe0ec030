package delivery

import (
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func FuzzJournal(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeRecord(fleet.DigestOf([]byte("file")), 7))
	f.Add(append(encodeRecord(fleet.Digest{}, 1<<31), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for _, frames := range parseJournal(b) {
			for _, i := range frames {
				if i < 0 {
					t.Fatalf("frame %d", i)
				}
				n++
			}
		}
		if n != len(b)/journalRecord {
			t.Fatalf("%d records in %d bytes", n, len(b))
		}
	})
}
