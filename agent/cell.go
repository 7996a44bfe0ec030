package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// openCell joins the member's gossip pool. Without one, or when the port is
// taken, the device is a cell of one and speaks to the coordinator itself.
func (a *agent) openCell(ctx context.Context, id identity.Identity, share uint16) *gossip.Pool {
	if !a.inCell() {
		return nil
	}
	pool, err := gossip.Open(gossip.Options{
		Fleet: id.Fleet, Cell: id.Cell.ID, Member: id.Facts.ID, Group: id.Facts.Group,
		Signer: a.me.Key(), Certificate: id.Certificate, Identify: a.identify(id), Barred: a.barred,
		Keys: append([][]byte{id.Cell.Key}, id.Cell.Old...), Bind: a.o.Gossip, Advertise: a.o.Address, Seeds: id.Cell.Seeds, Uplink: true,
		Share: share, Metered: a.o.Metered, Handlers: a.handlers(ctx), Logger: a.o.Logger,
	})
	if err != nil {
		a.o.Logger.Error("cell not joined; reporting directly", "cell", id.Cell.ID, "err", err)
		return nil
	}
	return pool
}

// announce tells the cell, if there is one, of a pack that was believed. It may
// name other device CAs or revoke members: peers are judged again.
func (a *agent) announce(p gossip.Pack) {
	if a.site != nil {
		a.site.Believed()
	}
	if t := a.loop.trusted.Load(); t != nil {
		a.needCellKey(t.Directive.CellKey(a.me.Identity().Cell.ID))
	}
	pool := a.pool.Load()
	if pool == nil {
		return
	}
	pool.Recheck()
	if err := pool.Announce(p); err != nil {
		a.o.Logger.Warn("pack not announced", "err", err)
	}
}

// barred reports whether the newest trust pack says that a member lost its
// identity.
func (a *agent) barred(id fleet.MemberID) bool {
	t := a.loop.trusted.Load()
	return t != nil && t.Bars(id, time.Time{}, time.Time{}) != nil
}

// identify judges peers' certificates by the device CAs of the newest trust
// pack, or before the first one by the CA that issued this member's own. A
// certificate past its expiry still tells whose key it is, for [fleet.Grace]: a
// member that could not renew is not cut off from its cell, which is how it gets
// packs. Revocations are remembered as long, by the directive.
func (a *agent) identify(self identity.Identity) func([]byte) (gossip.Identity, error) {
	return func(der []byte) (gossip.Identity, error) {
		bad := func(format string, args ...any) (gossip.Identity, error) {
			return gossip.Identity{}, fault.Newf(fault.Untrusted, "identify peer", "", format, args...)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return bad("%w", err)
		}
		issuers, err := x509.ParseCertificates(self.Issuer)
		if err != nil {
			return bad("own issuer: %w", err)
		}
		var t trust.Trusted
		if newest := a.loop.trusted.Load(); newest != nil {
			t = *newest
			issuers = append(issuers, t.DeviceCA...)
		}
		if !slices.ContainsFunc(issuers, func(ca *x509.Certificate) bool { return cert.CheckSignatureFrom(ca) == nil }) {
			return bad("no device CA of this fleet issued it")
		}
		pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
		if !ok || len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Host != self.Fleet {
			return bad("it names no member of fleet %s", self.Fleet)
		}
		kind, name, _ := strings.Cut(strings.TrimPrefix(cert.URIs[0].Path, "/"), "/")
		member, err := fleet.ParseMemberID(name)
		if err == nil {
			err = t.Bars(member, cert.NotAfter, time.Now())
		}
		if err != nil {
			return bad("%w", err)
		}
		return gossip.Identity{Member: member, Key: pub, Coordinator: kind == "coordinator"}, nil
	}
}
