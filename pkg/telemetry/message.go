package telemetry

import (
	"bytes"
	"crypto/ecdsa"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Message is a row or a window together with the signed bytes it travels as.
// Exactly one of Row and Window is set.
type Message struct {
	Raw    []byte
	Row    *Row
	Window *Window
}

// ParseMessage reads a row or a window, told apart by its first byte, and does
// not check its signature. The message shares raw's memory.
func ParseMessage(raw []byte) (Message, error) {
	if len(raw) > 0 && raw[0] == KindWindow {
		w, err := ParseWindow(raw)
		return Message{Raw: raw, Window: &w}, err
	}
	r, err := ParseRow(raw)
	return Message{Raw: raw, Row: &r}, err
}

// Verify checks that pub signed the message for the fleet.
func (m Message) Verify(fleetName string, pub *ecdsa.PublicKey) error {
	if m.Window != nil {
		return verify(WindowDomain, m.Raw, fleetName, pub, m.Window.Key)
	}
	return verify(RowDomain, m.Raw, fleetName, pub, m.Row.Key)
}

// verify checks a signed message that names the key of the member that signs.
func verify(d Domain, msg []byte, fleetName string, pub *ecdsa.PublicKey, claimed KeyID) error {
	id, err := KeyIDOf(pub)
	if err != nil {
		return err
	}
	if id != claimed {
		return fault.Newf(fault.Untrusted, "verify", string(d), "it names key %s, not %s", claimed, id)
	}
	_, err = Open(d, fleetName, pub, msg)
	return err
}

// Key is the id of the key that the message claims to be signed with.
func (m Message) Key() KeyID {
	if m.Window != nil {
		return m.Window.Key
	}
	return m.Row.Key
}

// Epoch is the boot epoch that the message belongs to.
func (m Message) Epoch() uint64 {
	if m.Window != nil {
		return m.Window.Epoch
	}
	return m.Row.Epoch
}

// Slot is the place that a message competes for: a table, a relay or a store
// keeps one message a slot, the one that [Message.Wins].
type Slot struct {
	Key    KeyID
	Epoch  uint64
	Window WindowKey // zero for rows
}

// Slot is the message's place.
func (m Message) Slot() Slot {
	s := Slot{Key: m.Key(), Epoch: m.Epoch()}
	if m.Window != nil {
		s.Window = m.Window.WindowKey
	}
	return s
}

// Wins reports whether m takes the place of old, a message of the same slot. A
// row with a higher sequence wins. What an honest member never makes, two
// messages that differ and claim the same place and sequence, is settled by
// their bytes, so that everyone settles it alike.
func (m Message) Wins(old Message) bool {
	if m.Row != nil && old.Row != nil && m.Row.Seq != old.Row.Seq {
		return m.Row.Seq > old.Row.Seq
	}
	return bytes.Compare(m.Raw, old.Raw) > 0
}
