package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// What a message begins with; rows and windows have telemetry's kinds.
const (
	kindAck      = 16
	kindWho      = 17
	kindCert     = 18
	kindAnnounce = 19
	kindPull     = 20
	kindBody     = 21
	kindState    = 22
	wireVersion  = 1
)

const (
	maxName     = 63
	maxAckIDs   = 64
	maxAnnounce = 7 // in one state: 7 * (1+63+10+32+5) + 66 + 2 + MaxCheckpoint <= maxState
)

var errWire = errors.New("malformed")

// in takes a message apart.
type in struct {
	b   []byte
	bad bool
}

func (r *in) take(n int) []byte {
	if r.bad || n < 0 || len(r.b) < n {
		r.bad = true
		return make([]byte, max(n, 0))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *in) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || (n > 1 && r.b[n-1] == 0) {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *in) name() string {
	n := int(r.take(1)[0])
	if n == 0 || n > maxName {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

func (r *in) header(kind byte) {
	h := r.take(2)
	r.bad = r.bad || h[0] != kind || h[1] != wireVersion
}

func (r *in) end() error {
	if r.bad || len(r.b) > 0 {
		return errWire
	}
	return nil
}

func appendName(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// IDOf is the id of a message.
func IDOf(raw []byte) MessageID {
	sum := sha256.Sum256(raw)
	return MessageID(sum[:8])
}

// ackBody is what a relay signs.
type ackBody struct {
	relay, member telemetry.KeyID
	ids           []MessageID
}

func (a ackBody) encode() []byte {
	b := []byte{kindAck, wireVersion}
	b = append(append(b, a.relay[:]...), a.member[:]...)
	b = append(b, byte(len(a.ids)))
	for _, id := range a.ids {
		b = append(b, id[:]...)
	}
	return b
}

func parseAck(body []byte) (ackBody, error) {
	r := &in{b: body}
	r.header(kindAck)
	a := ackBody{relay: telemetry.KeyID(r.take(8)), member: telemetry.KeyID(r.take(8))}
	n := int(r.take(1)[0])
	if n == 0 || n > maxAckIDs {
		return a, errWire
	}
	for range n {
		a.ids = append(a.ids, MessageID(r.take(8)))
	}
	return a, r.end()
}

func encodeWho(asker telemetry.KeyID) []byte {
	return append([]byte{kindWho, wireVersion}, asker[:]...)
}

func parseWho(msg []byte) (telemetry.KeyID, error) {
	r := &in{b: msg}
	r.header(kindWho)
	return telemetry.KeyID(r.take(8)), r.end()
}

func encodeCert(cert []byte) []byte { return append([]byte{kindCert, wireVersion}, cert...) }

func parseCert(msg []byte) ([]byte, error) {
	r := &in{b: msg}
	r.header(kindCert)
	if r.bad || len(r.b) == 0 || len(r.b) > MaxCertificate {
		return nil, errWire
	}
	return r.b, nil
}

// announce says that a member holds a pack.
type announce struct {
	holder  string
	group   fleet.Group
	version uint64
	hash    [sha256.Size]byte
	size    uint64
}

func (a announce) appendPack(b []byte) []byte {
	b = appendName(b, string(a.group))
	b = binary.AppendUvarint(b, a.version)
	b = append(b, a.hash[:]...)
	return binary.AppendUvarint(b, a.size)
}

func (r *in) pack(holder string) announce {
	a := announce{holder: holder, group: fleet.Group(r.name()), version: r.uint(), hash: [32]byte(r.take(32)), size: r.uint()}
	r.bad = r.bad || a.size == 0 || a.size > MaxPack
	return a
}

func (a announce) encode() []byte {
	return a.appendPack(appendName([]byte{kindAnnounce, wireVersion}, a.holder))
}

func parseAnnounce(msg []byte) (announce, error) {
	r := &in{b: msg}
	r.header(kindAnnounce)
	a := r.pack(r.name())
	return a, r.end()
}

// encodeState is what two members tell each other in a push/pull: the packs they
// hold, and the checkpoint of the audit log that they were shown.
func encodeState(holder string, as []announce, checkpoint string) []byte {
	b := appendName([]byte{kindState, wireVersion}, holder)
	as = as[:min(len(as), maxAnnounce)]
	b = append(b, byte(len(as)))
	for _, a := range as {
		b = a.appendPack(b)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(checkpoint))), checkpoint...)
}

func parseState(msg []byte) (as []announce, checkpoint string, err error) {
	r := &in{b: msg}
	r.header(kindState)
	holder := r.name()
	n := int(r.take(1)[0])
	if n > maxAnnounce {
		return nil, "", errWire
	}
	for range n {
		as = append(as, r.pack(holder))
	}
	size := binary.BigEndian.Uint16(r.take(2))
	if size > MaxCheckpoint {
		return nil, "", errWire
	}
	checkpoint = string(r.take(int(size)))
	return as, checkpoint, r.end()
}

// pull asks a holder for a pack.
type pull struct {
	asker string
	hash  [sha256.Size]byte
}

func (p pull) encode() []byte {
	return append(appendName([]byte{kindPull, wireVersion}, p.asker), p.hash[:]...)
}

func parsePull(msg []byte) (pull, error) {
	r := &in{b: msg}
	r.header(kindPull)
	p := pull{asker: r.name(), hash: [32]byte(r.take(32))}
	return p, r.end()
}

func encodeBody(pack []byte) []byte { return append([]byte{kindBody, wireVersion}, pack...) }

func parseBody(msg []byte) ([]byte, error) {
	r := &in{b: msg}
	r.header(kindBody)
	if r.bad || len(r.b) == 0 || len(r.b) > MaxPack {
		return nil, errWire
	}
	return r.b, nil
}
