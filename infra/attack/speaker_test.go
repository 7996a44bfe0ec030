package attack_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// The kinds of messages in a cell, of docs/formats/gossip.md, that the speaker
// makes by hand.
const (
	kindWho      = 17
	kindCert     = 18
	kindAnnounce = 19
	kindPull     = 20
	kindBody     = 21
	kindState    = 22
	wireVersion  = 1
)

// stolen reads who a device is from its disk, with its key: what a thief of the
// device has.
func (d *device) stolen() (identity.Identity, *signer.Signer) {
	d.f.t.Helper()
	raw, err := os.ReadFile(filepath.Join(d.state, "identity", "identity.json"))
	sure(d.f.t, err)
	var id identity.Identity
	sure(d.f.t, json.Unmarshal(raw, &id))
	key, err := signer.Load(d.f.t.Context(), filepath.Join(d.state, "identity", "key.pem"))
	sure(d.f.t, err)
	return id, key
}

// speaker takes part in a cell by memberlist alone and says what it likes.
type speaker struct {
	t    *testing.T
	list *memberlist.Memberlist
	name string
	meta []byte
	cert []byte // given to who asks; nil: none
	key  telemetry.KeyID

	mu    sync.Mutex // guards the rest
	packs map[[32]byte][]byte
	state []byte
	asked int // pulls that it answered
}

// speak joins a device's cell with the stolen cell key, under any name and key.
func (d *device) speak(name string, key *signer.Signer, cert []byte) *speaker {
	d.f.t.Helper()
	id, _ := d.stolen()
	t := d.f.t
	s := &speaker{t: t, name: name, cert: cert, packs: map[[32]byte][]byte{}}
	var err error
	s.key, err = telemetry.KeyIDOf(key.ECDSA())
	sure(t, err)
	addr := netip.MustParseAddrPort(freeAddr(t))
	s.meta = metaOf(t, id.Fleet, id.Cell.ID, name, addr, s.key, key)
	ring, err := memberlist.NewKeyring([][]byte{id.Cell.Key}, id.Cell.Key)
	sure(t, err)
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.Keyring = name, gossip.Label(id.Fleet, id.Cell.ID), ring
	c.BindAddr, c.BindPort, c.AdvertiseAddr, c.AdvertisePort = addr.Addr().String(), int(addr.Port()), addr.Addr().String(), int(addr.Port())
	c.EnableCompression, c.Delegate, c.Logger = false, s, log.New(io.Discard, "", 0)
	s.list, err = memberlist.Create(c)
	sure(t, err)
	t.Cleanup(func() { s.list.Shutdown() })
	until(t, name+" is in the cell", func() (bool, string) {
		n, err := s.list.Join([]string{d.gossip})
		return n > 0 && len(s.list.Members()) > 1, errText(err)
	})
	return s
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// metaOf is a member's metadata, signed by whatever key it has.
func metaOf(t *testing.T, fleetName, cell, name string, addr netip.AddrPort, id telemetry.KeyID, key *signer.Signer) []byte {
	t.Helper()
	body := append([]byte{2, 1, 255}, id[:]...) // version 2, an uplink, of the greatest weight
	body = binary.BigEndian.AppendUint16(body, 0)
	signed := append(bytes.Clone(body), cell+"\x00"+name+"\x00"+addr.String()...)
	sealed, err := telemetry.Seal(telemetry.MetaDomain, fleetName, key, signed)
	sure(t, err)
	return append(body, sealed[len(sealed)-telemetry.SignatureSize:]...)
}

// say sends bytes to a member of the cell.
func (s *speaker) say(to fleet.MemberID, msg []byte) {
	s.t.Helper()
	for _, n := range s.list.Members() {
		if n.Name == string(to) {
			sure(s.t, s.list.SendBestEffort(n, msg))
			sure(s.t, s.list.SendReliable(n, msg))
			return
		}
	}
	s.t.Fatalf("%s is not in the cell", to)
}

// announce says that it has a pack, of whatever version, and gives it to who asks.
func (s *speaker) announce(to fleet.MemberID, version uint64, pack []byte) {
	s.t.Helper()
	sum := sha256.Sum256(pack)
	msg := append([]byte{kindAnnounce, wireVersion, byte(len(s.name))}, s.name...)
	msg = append(append(msg, byte(len(fleet.DefaultGroup))), fleet.DefaultGroup...)
	msg = binary.AppendUvarint(msg, version)
	msg = append(msg, sum[:]...)
	msg = binary.AppendUvarint(msg, uint64(len(pack)))
	s.mu.Lock()
	s.packs[sum] = pack
	s.mu.Unlock()
	s.say(to, msg)
}

// given is how often a pack was taken from it.
func (s *speaker) given() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// NodeMeta is the speaker's metadata.
func (s *speaker) NodeMeta(int) []byte { return s.meta }

// NotifyMsg answers who asks for a pack or a certificate.
func (s *speaker) NotifyMsg(b []byte) {
	switch {
	case len(b) > 2 && b[0] == kindPull:
		n := int(b[2])
		asker, sum := string(b[3:3+n]), [32]byte(b[3+n:])
		s.mu.Lock()
		pack := s.packs[sum]
		s.asked++
		s.mu.Unlock()
		go s.reply(asker, append([]byte{kindBody, wireVersion}, pack...), true)
	case len(b) > 0 && b[0] == kindWho && s.cert != nil:
		for _, n := range s.list.Members() {
			go s.reply(n.Name, append([]byte{kindCert, wireVersion}, s.cert...), false)
		}
	}
}

func (s *speaker) reply(to string, msg []byte, reliable bool) {
	for _, n := range s.list.Members() {
		switch {
		case n.Name != to:
		case reliable:
			_ = s.list.SendReliable(n, msg) // who asked asks again
		default:
			_ = s.list.SendBestEffort(n, msg)
		}
	}
}

// GetBroadcasts has none.
func (*speaker) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is told to who exchanges everything.
func (s *speaker) LocalState(bool) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// MergeRemoteState is let pass.
func (*speaker) MergeRemoteState([]byte, bool) {}

// throw sends bytes to a member's gossip port, by UDP and by TCP.
func throw(t *testing.T, addr string, junk []byte) {
	t.Helper()
	u, err := net.Dial("udp", addr)
	sure(t, err)
	_, _ = u.Write(junk[:min(len(junk), 60000)]) // one that is too large is refused here already
	u.Close()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	sure(t, err)
	sure(t, c.SetDeadline(time.Now().Add(2*time.Second)))
	_, _ = c.Write(junk) // it may hang up at once
	c.Close()
}

// rowBy is a row that a key signed, about whatever its thief likes.
func rowBy(t *testing.T, fleetName string, claimed telemetry.KeyID, key *signer.Signer, epoch uint64) []byte {
	t.Helper()
	rec, err := telemetry.NewRecorder(telemetry.RecorderOptions{Key: claimed, Epoch: epoch, Window: time.Second, Sketch: time.Second, Agent: version})
	sure(t, err)
	rec.SetMember(telemetry.MemberState{Directive: 1 << 30, Freshness: telemetry.Fresh})
	messages, _, err := rec.Report(time.Now(), fleetName, key)
	sure(t, err)
	return messages[0]
}
