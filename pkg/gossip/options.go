package gossip

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Limits of what travels in a cell.
const (
	MaxCell        = 128     // members
	MaxPack        = 1 << 20 // bytes of a pack
	MaxCertificate = 1100    // bytes: it travels in one packet
	maxPacket      = 1200
	MaxCheckpoint  = 512  // bytes of a signed checkpoint
	maxState       = 1536 // bytes of user state in a push/pull
)

// Options says which cell a pool is of and who the member is.
type Options struct {
	Fleet       string
	Cell        string         // "SITE/N"
	Member      fleet.MemberID // the member's name in the cell
	Group       fleet.Group    // packs of other groups are let pass; "": pull none
	Signer      crypto.Signer  // the member's P-256 key
	Certificate []byte         // of that key; peers give it to their Identify
	// Identify judges a peer's certificate: by whom it was issued, for which
	// fleet, whether it was revoked. It must not block.
	Identify func(certificate []byte) (Identity, error)
	// Barred says that a member lost its identity: it is not taken for one of the
	// cell, whatever key it has. It must not block. Nil: nobody did.
	Barred func(fleet.MemberID) bool

	// Keys are the cell's AES keys, 16, 24 or 32 bytes: the first encrypts, all decrypt.
	Keys      [][]byte
	Bind      string      // host:port to listen on, UDP and TCP; port 0 picks one
	Advertise string      // host that others reach the member by; default: Bind's, or a private address
	Seeds     []string    // host:port of members to join by
	CIDRs     []net.IPNet // networks that members may come from; nil: any
	Uplink    bool        // the member can reach the coordinator by itself
	Weight    uint8       // how much it wants to be a relay: 1 battery, 2 wired, 8 mains power; default 2
	Share     uint16      // TCP port that the member serves frames to its neighbours on; 0: it does not
	Metered   bool        // what the member takes from the bucket costs it money: nobody has it take more

	Handlers  Handlers
	Logger    *slog.Logger         // default: none
	Transport memberlist.Transport // instead of sockets on Bind: for gossiptest
	Timing    Timing
}

// Timing sets the pace. Zero fields take the defaults, which suit a LAN.
type Timing struct {
	Gossip   time.Duration // between packets to 3 random members; default 200 ms
	Probe    time.Duration // between probes of one member; default 2 s
	Timeout  time.Duration // of a probe; default 500 ms
	PushPull time.Duration // between exchanges of the whole state with one member; default 30 s
	Tick     time.Duration // of retries and re-election; default 1 s
}

// Identity is who a certificate names.
type Identity struct {
	Member      fleet.MemberID
	Key         *ecdsa.PublicKey
	Coordinator bool // a coordinator: it wins the election of relays
}

// Handlers are told what arrives, one call at a time, from the pool's own
// goroutine. A handler that takes long delays the others; it may call the pool.
type Handlers struct {
	// OnMessage takes a row or window whose signature by from was checked. True
	// acks it at once: the coordinator has it. A relay returns false and calls
	// [Pool.Ack] when it has brought the message there.
	OnMessage func(m telemetry.Message, from Identity) bool
	// OnAck tells that the coordinator has messages that this member sent.
	OnAck func(Ack)
	// OnPack judges a pack that another member has and says what version it
	// really is: Pack.Version is only what that member said. An error refuses
	// it; a pack taken is announced to others.
	OnPack func(Pack) (version uint64, err error)
	// OnCheckpoint is told the signed checkpoint of the audit log that another
	// member was shown, unchecked.
	OnCheckpoint func(signed string)
	// OnChange tells that members or relays changed.
	OnChange func()
}

// Ack says that the coordinator has messages.
type Ack struct {
	Relay    fleet.MemberID // who brought them there
	Messages []MessageID
}

// MessageID names a message by its bytes: the first 8 of their SHA-256.
type MessageID [8]byte

// Pack is a trust pack with the number that orders the packs of a group: a
// higher one replaces a lower one.
type Pack struct {
	Group   fleet.Group
	Version uint64
	Body    []byte
}

// Member is what is known of a member of the cell.
type Member struct {
	Name        fleet.MemberID
	Addr        string // host:port
	Key         telemetry.KeyID
	Uplink      bool
	Share       uint16 // TCP port, at the host of Addr, that it serves frames on; 0: it does not
	Metered     bool
	Coordinator bool
	Proven      bool // its certificate is known and its metadata is signed by its key
	Relay       Role
}

// Role is what a member does for its cell.
type Role uint8

// The roles.
const (
	NoRelay Role = iota
	Primary      // brings everyone's rows to the coordinator
	Standby      // has everyone's rows and steps in
)

// String is the role's name.
func (r Role) String() string {
	return [...]string{"member", "primary", "standby", "unknown"}[min(r, 3)]
}

func (o *Options) check() error {
	bad := func(subject, format string, args ...any) error {
		return fault.Newf(fault.Invalid, "open gossip pool", subject, format, args...)
	}
	switch {
	case o.Fleet == "" || o.Cell == "" || o.Member == "":
		return bad("", "fleet, cell and member must be named")
	case o.Signer == nil || o.Identify == nil:
		return bad("", "a signer and an identify function are needed")
	case len(o.Certificate) == 0 || len(o.Certificate) > MaxCertificate:
		return bad("certificate", "%d bytes, want 1 to %d", len(o.Certificate), MaxCertificate)
	case len(o.Keys) == 0:
		return bad("keys", "a cell has at least one key")
	case o.Bind == "" && o.Transport == nil:
		return bad("bind", "an address to listen on is needed")
	}
	if o.Barred == nil {
		o.Barred = func(fleet.MemberID) bool { return false }
	}
	o.Weight = cmp.Or(o.Weight, 2)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &o.Timing
	t.Gossip = cmp.Or(t.Gossip, 200*time.Millisecond)
	t.Probe = cmp.Or(t.Probe, 2*time.Second)
	t.Timeout = cmp.Or(t.Timeout, 500*time.Millisecond)
	t.PushPull = cmp.Or(t.PushPull, 30*time.Second)
	t.Tick = cmp.Or(t.Tick, time.Second)
	return nil
}
