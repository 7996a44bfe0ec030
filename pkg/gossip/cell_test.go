package gossip_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/gossip/gossiptest"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

const fleetName = "acme"

// paper is what these tests use for a certificate.
type paper struct {
	Name        fleet.MemberID
	Key         []byte
	Coordinator bool
	Revoked     bool
}

var errRevoked = errors.New("revoked")

func identify(cert []byte) (gossip.Identity, error) {
	var c paper
	if err := json.Unmarshal(cert, &c); err != nil {
		return gossip.Identity{}, err
	}
	if c.Revoked {
		return gossip.Identity{}, errRevoked
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), c.Key)
	return gossip.Identity{Member: c.Name, Key: pub, Coordinator: c.Coordinator}, err
}

func keyOf(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	d := sha256.Sum256([]byte(name))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certOf(t testing.TB, name string, key *ecdsa.PrivateKey, coordinator bool) []byte {
	t.Helper()
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(paper{Name: fleet.MemberID(name), Key: raw, Coordinator: coordinator})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// member is one member of a test's cell and what its handlers were told.
type member struct {
	t    testing.TB
	name string
	key  *ecdsa.PrivateKey
	pool *gossip.Pool
	end  *gossiptest.Transport

	mu      sync.Mutex
	ackAll  bool
	table   *telemetry.Table
	acks    map[gossip.MessageID]int
	packs   []gossip.Pack
	version func(gossip.Pack) (uint64, error)
	at      map[uint64]time.Time // pack version -> when it came
}

func (m *member) handlers() gossip.Handlers {
	return gossip.Handlers{
		OnMessage: func(msg telemetry.Message, _ gossip.Identity) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.table.Insert(msg)
			return m.ackAll
		},
		OnAck: func(a gossip.Ack) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, id := range a.Messages {
				m.acks[id]++
			}
		},
		OnPack: func(p gossip.Pack) (uint64, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			v, err := m.version(p)
			if err == nil {
				m.packs = append(m.packs, p)
				m.at[v] = time.Now()
			}
			return v, err
		},
	}
}

func (m *member) holds(version uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.packs, func(p gossip.Pack) bool { return p.Version == version })
}

func (m *member) acked(raw []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acks[gossip.IDOf(raw)] > 0
}

// row makes and signs the member's row of a sequence.
func (m *member) row(seq, requests uint64) []byte {
	id, err := telemetry.KeyIDOf(&m.key.PublicKey)
	if err != nil {
		m.t.Fatal(err)
	}
	s := telemetry.Series{SeriesKey: telemetry.SeriesKey{Release: telemetry.Prefix{1}}}
	s.Requests = requests
	row := telemetry.Row{Key: id, Epoch: 1, Seq: seq, Time: time.Now().Unix(), Models: []telemetry.Model{{
		Model: telemetry.ModelPrefix("m"), Running: telemetry.Prefix{1}, Target: telemetry.Prefix{1}, Series: []telemetry.Series{s},
	}}}
	msg, err := row.Sign(fleetName, m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	return msg
}

func (m *member) total() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.table.Total(telemetry.ModelPrefix("m"), telemetry.SeriesKey{Release: telemetry.Prefix{1}}).Requests
}

// cell opens n members on a network; the first is every other's seed. Options
// may be changed by edit.
func cell(t testing.TB, net *gossiptest.Network, n int, edit func(i int, o *gossip.Options)) []*member {
	t.Helper()
	ms := make([]*member, n)
	for i := range ms {
		ms[i] = open(t, net, fmt.Sprintf("d%02d", i), func(o *gossip.Options) {
			if i > 0 {
				o.Seeds = []string{ms[0].pool.Addr()}
			}
			if edit != nil {
				edit(i, o)
			}
		})
	}
	return ms
}

func open(t testing.TB, net *gossiptest.Network, name string, edit func(o *gossip.Options)) *member {
	t.Helper()
	m := &member{
		t: t, name: name, key: keyOf(t, name), table: telemetry.NewTable(), acks: map[gossip.MessageID]int{}, at: map[uint64]time.Time{},
		version: func(p gossip.Pack) (uint64, error) {
			var v uint64
			_, err := fmt.Sscanf(string(p.Body), "pack %d", &v)
			return v, err
		},
	}
	o := gossip.Options{
		Fleet: fleetName, Cell: "site-a/0", Member: fleet.MemberID(name), Group: "default", Signer: m.key,
		Certificate: certOf(t, name, m.key, false), Identify: identify, Keys: [][]byte{make([]byte, 32)}, Uplink: true,
	}
	if net != nil {
		m.end = net.Transport()
		o.Transport = m.end
	} else {
		o.Bind = "127.0.0.1:0"
	}
	o.Handlers = m.handlers()
	edit(&o)
	pool, err := gossip.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	m.pool = pool
	return m
}

func closeAll(ms []*member) {
	for _, m := range ms {
		if err := m.pool.Close(); err != nil {
			m.t.Error(err)
		}
	}
	if len(ms) > 0 && ms[0].end != nil {
		gossiptest.Settle()
	}
}

// agreed reports whether all members see each other proven and the same relays.
func agreed(ms []*member) bool {
	want := ms[0].pool.Relays()
	for _, m := range ms {
		seen := m.pool.Members()
		if len(seen) != len(ms) || !slices.Equal(m.pool.Relays(), want) || len(want) != min(2, len(ms)) {
			return false
		}
		for _, s := range seen {
			if s.Uplink && !s.Proven {
				return false
			}
		}
	}
	return true
}

func byName(ms []*member, name fleet.MemberID) *member {
	i := slices.IndexFunc(ms, func(m *member) bool { return m.name == string(name) })
	return ms[i]
}
