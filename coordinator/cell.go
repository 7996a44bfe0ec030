package coordinator

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// cell is the coordinator's part in the gossip of one site. It wins the election
// of relays and takes rows straight from the members.
type cell struct {
	id   string
	pool *gossip.Pool

	key    *signer.Signer
	issued ca.Issued // for key; of keepDevices once the coordinator serves

	mu    sync.Mutex
	unack []telemetry.Message // taken in, not kept yet
}

// coordinatorID is the coordinator's name in a cell.
const coordinatorID fleet.MemberID = "coordinator"

// weight makes the coordinator the cell's first choice as a relay.
const weight = 255

// joinCell takes part in a site's first cell, with an identity of the device CA
// on a key of its own.
func (h *house) joinCell(ctx context.Context) (*cell, error) {
	site, err := h.inventory.EnsureCell(ctx, h.o.JoinCell, 0)
	if err != nil {
		return nil, err
	}
	key, err := signer.Ephemeral()
	if err != nil {
		return nil, err
	}
	issued, err := h.ca.Issue(ca.Identity{Kind: ca.Coordinator, ID: coordinatorID, Generation: 1}, key.ECDSA(), time.Now())
	if err != nil {
		return nil, err
	}
	c := &cell{key: key, issued: issued}
	c.pool, err = gossip.Open(gossip.Options{
		Fleet: h.m.file.Name, Cell: site.ID, Member: coordinatorID, // of no group: it pulls no packs
		Signer: key, Certificate: issued.DER, Identify: h.identify, Barred: h.barred,
		Keys: [][]byte{site.Key}, Bind: h.o.GossipBind, Seeds: h.inventory.Seeds(site.ID, coordinatorID),
		Uplink: true, Weight: weight, Logger: h.log,
		Handlers: gossip.Handlers{
			OnMessage: func(m telemetry.Message, _ gossip.Identity) bool { return h.fromGossip(c, m) },
			OnCheckpoint: func(signed string) {
				if err := h.witness(ctx, "", []string{signed}); err != nil {
					h.log.Debug("checkpoint from the cell is not the log's", "err", err)
				}
			},
		},
	})
	if err != nil {
		return nil, err
	}
	h.inventory.AddSeed(site.ID, c.pool.Addr())
	c.id = site.ID
	if err := h.turnCellKey(c); err != nil {
		return nil, errors.Join(err, c.pool.Close())
	}
	if p, ok := h.publisher.Pack(fleet.DefaultGroup); ok {
		err = c.pool.Announce(gossip.Pack{Group: fleet.DefaultGroup, Version: p.Version, Body: p.Body})
	}
	h.log.Info("joined cell", "cell", site.ID, "addr", c.pool.Addr())
	return c, err
}

// turnCellKey has the coordinator's part in a cell take over its keys as they are
// now.
func (h *house) turnCellKey(c *cell) error {
	keys := h.inventory.CellKeys(c.id, time.Now())
	return c.pool.Rekey(gossip.Keys{New: keys.Key, Old: keys.Old, UseIn: keys.UseIn.D(), DropIn: keys.DropIn.D()})
}

// barred reports whether a member of the cell lost its identity.
func (h *house) barred(id fleet.MemberID) bool {
	m, known := h.inventory.Member(id)
	return known && m.Revoked
}

// renewCell gives the cell a fresh certificate when its own is half spent, or of
// another device CA than issues now.
func (h *house) renewCell(now time.Time) error {
	c := h.cell
	if c == nil || h.ca.Certificate() == nil {
		return nil
	}
	if bytes.Equal(c.issued.Issuer, h.ca.Certificate()) && c.issued.Expires.Sub(now) > or(h.o.Certificates, ca.Lifetime)/2 {
		return nil
	}
	issued, err := h.ca.Issue(ca.Identity{Kind: ca.Coordinator, ID: coordinatorID, Generation: 1}, c.key.ECDSA(), now)
	if err != nil {
		return err
	}
	c.issued = issued
	return c.pool.SetCertificate(issued.DER)
}

// identify judges a certificate that a peer in the cell shows.
func (h *house) identify(der []byte) (gossip.Identity, error) {
	id, pub, err := h.ca.Verify(der, time.Now())
	if err != nil {
		return gossip.Identity{}, err
	}
	if id.Kind == ca.Coordinator {
		return gossip.Identity{Member: id.ID, Key: pub, Coordinator: true}, nil
	}
	m, ok := h.inventory.Member(id.ID)
	if !ok || m.Revoked || m.Locked != "" {
		return gossip.Identity{}, fault.Newf(fault.Denied, "identify peer", string(id.ID), "its identity is locked, revoked or unknown")
	}
	if err := h.inventory.CheckKey(id.ID, pub); err != nil {
		return gossip.Identity{}, err
	}
	return gossip.Identity{Member: id.ID, Key: pub}, nil
}

// fromGossip takes a message in. It is acked once it is kept.
func (h *house) fromGossip(c *cell, m telemetry.Message) bool {
	res := h.intake.Add([][]byte{m.Raw}, "", time.Now())
	if len(res.Refused) > 0 {
		h.log.Debug("row from gossip refused", "device", res.Refused[0].Member, "err", res.Refused[0].Reason)
		return false
	}
	c.mu.Lock()
	c.unack = append(c.unack, m)
	c.mu.Unlock()
	return false
}

// taken are the messages to ack once what was taken in is kept.
func (c *cell) taken() []telemetry.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.unack
	c.unack = nil
	return out
}

// announce tells the cell of a new pack.
func (h *house) announce(g fleet.Group, p publish.Pack) {
	if h.cell == nil {
		return
	}
	if err := h.cell.pool.Announce(gossip.Pack{Group: g, Version: p.Version, Body: p.Body}); err != nil {
		h.log.Warn("pack is not announced in the cell", "err", err)
	}
}
