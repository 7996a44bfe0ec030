package gossip

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func examples() [][]byte {
	a := announce{holder: "d01", group: "default", version: 300, hash: [32]byte{1, 2, 3}, size: 6000}
	return [][]byte{
		ackBody{relay: telemetry.KeyID{1}, member: telemetry.KeyID{2}, ids: []MessageID{{3}, {4}}}.encode(),
		encodeWho(telemetry.KeyID{1}), encodeCert([]byte("certificate")), a.encode(),
		encodeState("d01", []announce{a, a}, "checkpoint"), pull{asker: "d02", hash: [32]byte{9}}.encode(), encodeBody([]byte("pack")),
	}
}

// again parses and encodes a message.
func again(msg []byte) ([]byte, error) {
	switch msg[0] {
	case kindAck:
		a, err := parseAck(msg)
		return a.encode(), err
	case kindWho:
		k, err := parseWho(msg)
		return encodeWho(k), err
	case kindCert:
		c, err := parseCert(msg)
		return encodeCert(c), err
	case kindAnnounce:
		a, err := parseAnnounce(msg)
		return a.encode(), err
	case kindState:
		as, c, err := parseState(msg)
		if err != nil || len(as) == 0 {
			return msg, err
		}
		return encodeState(as[0].holder, as, c), nil
	case kindPull:
		p, err := parsePull(msg)
		return p.encode(), err
	case kindBody:
		b, err := parseBody(msg)
		return encodeBody(b), err
	default:
		return nil, errWire
	}
}

// What a parser takes encodes to the bytes it took; everything a member sends is taken.
func FuzzWire(f *testing.F) {
	for _, m := range examples() {
		if _, err := again(m); err != nil {
			f.Fatalf("%x: %v", m, err)
		}
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) == 0 {
			return
		}
		if got, err := again(msg); err == nil && !bytes.Equal(got, msg) {
			t.Errorf("%x encodes to %x", msg, got)
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add(append(meta{uplink: true, weight: 2, key: telemetry.KeyID{7}}.encode(), make([]byte, 64)...))
	f.Add(append(meta{metered: true, weight: 8, share: 7947}.encode(), make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b)
		if err == nil && !bytes.Equal(m.encode(), b[:len(b)-64]) {
			t.Errorf("%x encodes to %x", b, m.encode())
		}
	})
}

// The state of a push/pull keeps its bound whatever the names.
func TestStateIsBounded(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), maxName))
	a := announce{holder: long, group: fleet.Group(long), version: 1 << 63, size: MaxPack}
	msg := encodeState(long, slices.Repeat([]announce{a}, 20), strings.Repeat("c", MaxCheckpoint))
	if len(msg) > maxState {
		t.Errorf("%d bytes", len(msg))
	}
	if as, c, err := parseState(msg); err != nil || len(c) != MaxCheckpoint || len(as) != maxAnnounce {
		t.Errorf("%d announcements: %v", len(as), err)
	}
}

// Metadata is good for one name, cell and address only.
func TestMetaIsBoundToItsPlace(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{5}, 32))
	if err != nil {
		t.Fatal(err)
	}
	here := where{"a/0", "d01", netip.MustParseAddrPort("10.0.0.1:7946")}
	b, err := meta{uplink: true, weight: 2, share: 7947}.sign("acme", key, here)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 200 {
		t.Errorf("%d bytes", len(b))
	}
	if err := verifyMeta(b, "acme", &key.PublicKey, here); err != nil {
		t.Error(err)
	}
	mapped := here
	mapped.addr = netip.MustParseAddrPort("[::ffff:10.0.0.1]:7946")
	if err := verifyMeta(b, "acme", &key.PublicKey, mapped); err != nil {
		t.Errorf("the same address in other words: %v", err)
	}
	for what, w := range map[string]where{
		"name": {here.cell, "d02", here.addr}, "cell": {"a/1", here.name, here.addr},
		"address": {here.cell, here.name, netip.MustParseAddrPort("10.0.0.2:7946")},
	} {
		if verifyMeta(b, "acme", &key.PublicKey, w) == nil {
			t.Errorf("another %s was taken", what)
		}
	}
	elsewhere := bytes.Clone(b)
	elsewhere[12] ^= 1
	if verifyMeta(elsewhere, "acme", &key.PublicKey, here) == nil {
		t.Error("another share port was taken")
	}
	if verifyMeta(b, "other", &key.PublicKey, here) == nil {
		t.Error("another fleet was taken")
	}
}

// Members that see the same candidates elect the same relays in whatever order;
// coordinators come first; every candidate has its hours, by its weight.
func TestElection(t *testing.T) {
	t.Parallel()
	cs := []candidate{{"a", 2, false}, {"b", 2, false}, {"c", 8, false}, {"d", 1, false}, {"e", 2, false}}
	wins := map[fleet.MemberID]int{}
	for hour := range int64(5000) {
		got := elect("s/0", hour, cs)
		reversed := slices.Clone(cs)
		slices.Reverse(reversed)
		if !slices.Equal(got, elect("s/0", hour, reversed)) {
			t.Fatal("the order matters")
		}
		wins[got[0]]++
		if with := elect("s/0", hour, append(reversed, candidate{"hub", 1, true})); with[0] != "hub" || with[1] != got[0] {
			t.Fatalf("the coordinator does not win, or unseats both: %v, without it %v", with, got)
		}
	}
	for _, c := range cs {
		if wins[c.name] == 0 {
			t.Errorf("%s never wins", c.name)
		}
	}
	if !(wins["c"] > wins["a"] && wins["a"] > wins["d"]) {
		t.Errorf("weights do not count: %v", wins)
	}
	if got := elect("s/0", 1, nil); len(got) != 0 {
		t.Errorf("nobody was elected from nobody: %v", got)
	}
}
