package api

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// auditDomain separates the hashes of audit entries from every other hash.
const auditDomain = "modelfleet/audit/v1"

// Sum is the hash that chains the entry to the one before it: SHA-256 over the
// domain, Prev, and then each field with its length in front, as docs/formats/
// http.md spells out. It does not look at Hash.
func (e AuditEntry) Sum() fleet.Digest {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	var index [8]byte
	binary.BigEndian.PutUint64(index[:], e.Index)
	field([]byte(auditDomain))
	field(e.Prev[:])
	field(index[:])
	field([]byte(e.At.UTC().Format(time.RFC3339Nano)))
	field([]byte(e.Actor))
	field([]byte(e.Action))
	field([]byte(e.Subject))
	field([]byte(e.Reason))
	field(e.Detail)
	return fleet.Digest(h.Sum(nil))
}

// CheckAudit verifies that entries follow each other and the entry whose hash is
// prev, which is zero for the first of all.
func CheckAudit(prev fleet.Digest, entries []AuditEntry) error {
	for i, e := range entries {
		at := fmt.Sprintf("entry %d", e.Index)
		switch {
		case e.Prev != prev:
			return fault.Newf(fault.Untrusted, "check audit log", at, "does not follow the entry before it: an entry was changed, added or taken out").
				WithHint("compare with a copy of the log kept elsewhere")
		case i > 0 && e.Index != entries[i-1].Index+1:
			return fault.Newf(fault.Untrusted, "check audit log", at, "follows entry %d", entries[i-1].Index)
		case e.Sum() != e.Hash:
			return fault.Newf(fault.Untrusted, "check audit log", at, "its content is not what was hashed").
				WithHint("compare with a copy of the log kept elsewhere")
		}
		prev = e.Hash
	}
	return nil
}
