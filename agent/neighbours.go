package agent

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"strconv"

	"github.com/modelfleet/modelfleet/agent/share"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// noShare is what -share says when a device neither gives nor asks.
const noShare = "off"

// inCell reports whether the device is meant to be in a cell.
func (a *agent) inCell() bool {
	cell := a.me.Identity().Cell
	return a.o.Gossip != "" && cell.ID != "" && len(cell.Key) > 0
}

// neighbours makes the device's part in its site; nil: it has none.
func (a *agent) neighbours(store *cas.Store) (*share.Site, error) {
	if !a.inCell() || a.o.Share == noShare {
		return nil, nil
	}
	id := a.me.Identity()
	return share.New(share.Options{
		Self: id.Facts.ID, Dir: filepath.Join(a.o.State, "share"), Store: store, Identify: a.identify(id),
		Certificate: func() tls.Certificate {
			return tls.Certificate{Certificate: [][]byte{a.me.Identity().Certificate}, PrivateKey: a.me.Key()}
		},
		Backed: a.loop.backed,
		Want: func(ctx context.Context, path string, release fleet.Digest) (delivery.Want, error) {
			return a.loop.run.Want(ctx, path, release)
		},
		Rate: a.o.ShareRate, Disk: a.o.ShareDisk, LowMemory: a.o.LowMemory, Logger: a.o.Logger,
	})
}

// backed finds a release that the newest trust pack backs.
func (l *loop) backed(release fleet.Digest) (path string, ok bool) {
	t := l.trusted.Load()
	if t == nil {
		return "", false
	}
	for path, b := range t.Releases {
		if b.Entry.Release.Variants[0].Bundle == release {
			return path, true
		}
	}
	return "", false
}

// listenShare opens the port that neighbours are served on; nil when there is
// none. By default it is the one after the gossip's, or any if that is taken.
func (a *agent) listenShare() net.Listener {
	if a.site == nil || a.o.Metered {
		return nil
	}
	addr := a.o.Share
	if addr == "" {
		host, port, err := net.SplitHostPort(a.o.Gossip)
		n, _ := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil // the cell says what is wrong with it
		}
		addr = net.JoinHostPort(host, "0")
		if n > 0 && n < 1<<16-1 {
			if ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.FormatUint(n+1, 10))); err == nil {
				return ln
			}
			a.o.Logger.Warn("port for neighbours is taken, another one is used", "port", n+1)
		}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		a.o.Logger.Error("neighbours are not served", "err", fault.New(fault.Conflict, "listen for neighbours", addr, err))
		return nil
	}
	return ln
}

// serveShare serves neighbours until ctx ends.
func (a *agent) serveShare(ctx context.Context, ln net.Listener) {
	if err := a.site.Serve(ctx, ln, a.fetcher.Frame); err != nil {
		a.o.Logger.Error("neighbours are served no more", "err", err)
	}
}

// see tells the site who is in the cell.
func (a *agent) see() {
	pool := a.pool.Load()
	if pool == nil || a.site == nil {
		return
	}
	a.site.See(pool.Members())
	a.o.Logger.Debug("neighbours seen", "count", a.site.Sharers(fleet.Digest{}))
}

// meet lets the cell come together before an install begins: who does not know
// its neighbours yet would take all from the bucket.
func (a *agent) meet(ctx context.Context) {
	if a.site != nil {
		a.site.Meet(ctx)
	}
}

// liars are the neighbours that were left out: how many, and the last.
func (a *agent) liars() (int, fleet.MemberID) {
	if a.site == nil {
		return 0, ""
	}
	return a.site.Liars()
}

// sharePort is what the cell is told of a listener.
func sharePort(ln net.Listener) uint16 {
	if ln == nil {
		return 0
	}
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// peers are the site as a fetcher takes it; a nil site must reach it as a nil
// interface.
func (a *agent) peers() (p delivery.Peers, spare func()) {
	if a.site == nil {
		return nil, nil
	}
	return a.site, a.site.Spare
}

// handlers are what the cell's pool calls.
func (a *agent) handlers(ctx context.Context) gossip.Handlers {
	return gossip.Handlers{
		OnMessage:    a.relay.Take,
		OnAck:        a.relay.Acked,
		OnPack:       func(p gossip.Pack) (uint64, error) { return a.loop.offerPack(ctx, p.Body, "cell") },
		OnChange:     a.see,
		OnCheckpoint: a.loop.witness.hear,
	}
}
