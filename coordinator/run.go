package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/coordinator/desk"
	"github.com/modelfleet/modelfleet/coordinator/httpapi"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/store/sqlite"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/coordinator/web"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Run coordinates a fleet until ctx ends, and returns nil then. It returns an
// error when it cannot begin, or when somebody else coordinates the same fleet.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return err
	}
	m, err := o.load(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return fault.New(fault.Invalid, "make data folder", o.Data, err)
	}
	lock, err := cas.TakeLock(filepath.Join(o.Data, "lock"))
	if fault.Is(err, fault.Conflict) {
		return fault.New(fault.Conflict, "take data folder", o.Data, err).WithHint("another coordinator uses this data folder: stop it first")
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	// Listen first: a taken port should cost nothing else.
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return fault.New(fault.Conflict, "listen", o.Listen, err).WithHint("is another coordinator running, or the address not this machine's?")
	}
	defer ln.Close()
	st, err := sqlite.Open(ctx, filepath.Join(o.Data, "coordinator.db"))
	if err != nil {
		return err
	}
	defer st.Close()
	h := &house{o: o, m: m, store: st, events: &desk.Events{}, wake: make(chan struct{}, 1), log: o.Logger, listener: ln}
	if err := h.furnish(ctx); err != nil {
		return err
	}
	return h.live(ctx)
}

// poke wakes the loop.
func (h *house) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// changed is told of each new row; what changes a decision wakes the loop.
func (h *house) changed(id fleet.MemberID, before, now telemetry.Row) {
	h.harmed(id, before, now)
	for _, m := range now.Models {
		old, had := before.Model(m.Model)
		if had && old.Phase == m.Phase && old.Running == m.Running && old.Failure == m.Failure {
			continue
		}
		h.poke()
		text := "is " + m.Phase.String()
		if m.Failure == fleet.ReleaseFailure {
			text += ": " + m.Code.String()
		}
		if st := (api.ModelStatus{Phase: m.Phase, Failure: m.Failure, FailureCode: m.Code.String()}); st.Stuck() {
			text = st.StuckText(time.Now())
		}
		ref := h.desk.RefOf(m)
		if ref != "" {
			text += ", runs " + ref
		}
		h.events.Publish(api.Event{At: time.Now().UTC(), Kind: "member", Subject: string(id), Text: text})
		h.log.Debug("member changed", "device", id, "state", m.Phase, "release", ref, "code", m.Code)
	}
}

// harmed tells of what went wrong on a member that is nobody's release: files its
// disk damaged, a neighbour that lied to it.
func (h *house) harmed(id fleet.MemberID, before, now telemetry.Row) {
	was := before.Delivery
	if before.Epoch != now.Epoch {
		was = telemetry.Delivery{}
	}
	news := now.Delivery.Since(was)
	alarm := func(text string) {
		h.events.Publish(api.Event{At: time.Now().UTC(), Kind: "alarm", Subject: string(id), Text: text})
		h.log.Warn("member was harmed", "device", id, "what", text)
	}
	if news.Damaged > 0 {
		alarm(fmt.Sprintf("its disk damaged files (%d); they are fetched again", news.Damaged))
	}
	if news.Liars > 0 {
		liar, known := h.inventory.Named(now.Delivery.Liar)
		if !known {
			liar = "a neighbour"
		}
		alarm("left out " + string(liar) + ", which delivered other bytes than were signed")
	}
}

// memberChanged is told of members that enrolled, were locked or revoked.
func (h *house) memberChanged(m store.Member) {
	text := "enrolled"
	switch {
	case m.Revoked:
		text = "revoked"
	case m.Locked != "":
		text = "locked: " + m.Locked
	}
	h.poke()
	if h.cell != nil {
		h.cell.pool.Recheck() // whom to believe in the cell has changed
		if m.Revoked && m.Cell == h.cell.id {
			if err := h.turnCellKey(h.cell); err != nil {
				h.log.Error("cell key not taken over", "cell", m.Cell, "err", err)
			}
		}
	}
	h.events.Publish(api.Event{At: time.Now().UTC(), Kind: "member", Subject: string(m.Facts.ID), Text: text})
}

// live serves and decides until ctx ends.
func (h *house) live(ctx context.Context) error {
	if err := h.loop.first(ctx); err != nil { // members need a pack to enrol
		return err
	}
	if h.o.JoinCell != "" {
		var err error
		if h.cell, err = h.joinCell(ctx); err != nil {
			return err
		}
		h.address.Gossip = h.cell.pool.Addr()
	}
	stop := ctx
	g, ctx := errgroup.WithContext(ctx)
	server, err := h.server(ctx)
	if err != nil {
		return err
	}
	g.Go(func() error {
		err := server.ServeTLS(h.listener, "", "")
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fault.New(fault.Internal, "serve", h.o.Listen, err)
	})
	g.Go(func() error { return h.loop.run(ctx) })
	g.Go(func() error { return h.keep(ctx) })
	g.Go(func() error { return h.keepDevices(ctx) })
	g.Go(func() error { return h.keepRoles(ctx) })
	g.Go(func() error { return h.tidyUp(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		return h.close(server)
	})
	h.log.Info("serving", "fleet", h.m.file.Name, "addr", h.address.Addr, "url", h.address.URL, "pin", h.address.Pin, "gossip", h.address.Gossip)
	h.o.Serving(h.address)
	err = g.Wait()
	if stop.Err() == nil || fault.Is(err, fault.Conflict) {
		return err // nobody asked for an end
	}
	if err != nil {
		h.log.Warn("stopped in disorder", "err", err)
	}
	return nil
}

func (h *house) server(ctx context.Context) (*http.Server, error) {
	key, err := h.sessionKey()
	if err != nil {
		return nil, err
	}
	slow := throttle.New(throttle.Options{})
	front := web.Options{Source: h.desk, Key: key, Silent: 3 * h.o.Idle, Logger: h.log, Throttle: slow}
	if h.issuer != nil {
		front.Issuer, front.URL = h.issuer, h.address.URL
	}
	dashboard, err := web.New(front)
	if err != nil {
		return nil, err
	}
	handler, err := httpapi.New(httpapi.Options{
		Desk: h.desk, Inventory: h.inventory, Intake: h.intake, Publisher: h.publisher, CA: h.ca, Audit: httpapi.Audit{Log: h.audit, Witness: h.witness, Splits: h.splits}, Pins: h.pins,
		Presigner: h.presign, PackURLs: h.o.PackURLs, Dashboard: dashboard, Logger: h.log, Ready: h.loop.ready, Stopping: ctx.Done(),
		Issuer: h.issuer, Throttle: slow, MetricsOpen: h.o.MetricsOpen,
	})
	if err != nil {
		return nil, err
	}
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		WriteTimeout:      120 * time.Second, // above the longest long poll
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug), // handshakes of strangers
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{h.tls},
			ClientAuth: tls.RequestClientCert, // package httpapi judges it, at each call
		},
	}, nil
}

// keep writes down what was taken in, and acks it in the cell, often enough that
// members need not repeat themselves.
func (h *house) keep(ctx context.Context) error {
	flush := time.NewTicker(min(time.Second, h.o.Tick))
	thin := time.NewTicker(10 * time.Minute)
	defer flush.Stop()
	defer thin.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-flush.C:
			h.publishAudit(ctx)
			err = h.flush(ctx)
		case <-thin.C:
			err = h.intake.Thin(ctx, time.Now())
		}
		if err != nil && ctx.Err() == nil {
			h.log.Error("rows are not kept", "err", err)
		}
	}
}

func (h *house) flush(ctx context.Context) error {
	if h.cell == nil {
		return h.intake.Flush(ctx)
	}
	ack := h.cell.taken()
	if err := h.intake.Flush(ctx); err != nil {
		return err
	}
	h.cell.pool.Ack(ack...)
	return nil
}

// stopWithin bounds how long a stop waits for requests under way.
const stopWithin = 5 * time.Second

func (h *house) close(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	h.log.Info("stopping")
	var errs []error
	if h.cell != nil {
		errs = append(errs, h.cell.pool.Leave(ctx), h.cell.pool.Close())
	}
	if err := server.Shutdown(ctx); err != nil {
		errs = append(errs, server.Close())
	}
	return errors.Join(append(errs, h.intake.Flush(ctx))...)
}
