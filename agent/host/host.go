// Package host is what applications on a device see and say: how things stand,
// and what they observe. It counts observations for reports, and watches each
// release that is not proven yet, from its switch to the end of its soak.
//
//	agent/local ─▶ Observe, Lost, Lift ─▶ telemetry.Recorder, probe.Watch ─▶ Sick, Lifted ─▶ loop
//	agent/local ◀─ Listing ◀─ Publish ◀──────────────────────────────────────────────────────── loop
//
// A release is found sick once: what applications say of it afterwards is counted
// and nothing else.
package host

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Host is a [local.Host]. Make it with [New]; it is safe for concurrent use.
type Host struct {
	log     *slog.Logger
	rec     *telemetry.Recorder
	tell    func(fleet.ModelName, update.Event)
	listing atomic.Pointer[local.Listing]

	mu      sync.Mutex
	watches map[fleet.ModelName]*watched
	counts  map[counted]local.Counts
}

// counted is what observations are counted by.
type counted struct {
	model fleet.ModelName
	root  fleet.Digest
}

type watched struct {
	root  fleet.Digest
	watch *probe.Watch
	told  bool // that it is sick
}

// New makes a host that counts with rec. It lists nothing yet.
func New(rec *telemetry.Recorder, log *slog.Logger) *Host {
	h := &Host{log: log, rec: rec, watches: map[fleet.ModelName]*watched{}, counts: map[counted]local.Counts{}}
	h.listing.Store(&local.Listing{})
	return h
}

// Tell says where events go: releases that did too badly, quarantines that were
// lifted. Call it before applications are served.
func (h *Host) Tell(to func(fleet.ModelName, update.Event)) { h.tell = to }

// Publish is how things stand from now on.
func (h *Host) Publish(l local.Listing) { h.listing.Store(&l) }

// Moved follows a model's state: a release is watched from its switch until it
// is proven or gone.
func (h *Host) Moved(old, next update.State, limits probe.Limits) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watches[next.Model]
	switch run := next.Running; {
	case run.IsZero() || run.Good:
		delete(h.watches, next.Model)
	case w == nil || w.root != run.Root:
		h.watches[next.Model] = &watched{root: run.Root, watch: probe.NewWatch(limits)}
	}
	for _, q := range next.Quarantined[min(len(old.Quarantined), len(next.Quarantined)):] {
		switch q.Code {
		case update.CodeRevoked, update.CodeGate: // it did not fail here
		case "crash-loop": // each crash was counted when it happened
		default:
			h.fatal(next.Model, q.Root, now)
		}
	}
}

func (h *Host) fatal(m fleet.ModelName, root fleet.Digest, now time.Time) {
	if err := h.rec.Fatal(m, now, root); err != nil {
		h.log.Debug("fatal event not counted", "model", m, "err", err)
	}
}

// Observe counts what an application observed, and tells when a release under
// watch did too badly.
func (h *Host) Observe(m fleet.ModelName, root fleet.Digest, obs []local.Observation) {
	now := time.Now()
	for _, o := range obs {
		err := h.rec.Observe(m, now, telemetry.Observation{
			Release: root, Latency: time.Duration(max(o.Micros, 0)) * time.Microsecond, Err: o.Error, Score: o.Score, Right: o.Right,
		})
		if err != nil {
			h.log.Debug("observation not counted", "model", m, "err", err)
			break
		}
	}
	h.count(counted{m, root}, obs)
	h.check(m, root, func(w *probe.Watch) (v probe.Verdict, bad bool) {
		for _, o := range obs {
			if v, bad = w.Used(o.Error, 0); bad {
				return v, bad
			}
		}
		return v, false
	})
}

// count keeps what the local API shows, of the releases that run or ran here.
func (h *Host) count(k counted, obs []local.Observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, known := h.counts[k]
	if !known && len(h.counts) >= maxCounted {
		clear(h.counts)
	}
	for _, o := range obs {
		c.Requests++
		if o.Error {
			c.Errors++
		}
		switch {
		case o.Right == nil:
		case *o.Right:
			c.Right++
		default:
			c.Wrong++
		}
	}
	h.counts[k] = c
}

// maxCounted bounds what a confused application can make the agent keep.
const maxCounted = 256

func (h *Host) counted(m fleet.ModelName, root fleet.Digest) local.Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[counted{m, root}]
}

// Listing is how things stand: what was published last, with the newest counts.
func (h *Host) Listing() local.Listing {
	l := *h.listing.Load()
	l.Models = slices.Clone(l.Models)
	for i, m := range l.Models {
		if m.Serving != nil {
			l.Models[i].Counts = h.counted(m.Name, m.Serving.Root)
		}
	}
	return l
}

// Lost counts an application that lost a release.
func (h *Host) Lost(l local.Loss) {
	h.log.Warn("application lost a release", "model", l.Model, "app", l.App, "why", l.Why)
	h.fatal(l.Model, l.Root, time.Now())
	h.check(l.Model, l.Root, func(w *probe.Watch) (probe.Verdict, bool) {
		if l.Fatal {
			return w.Refused(l.Why), true
		}
		return w.Lost(l.Why)
	})
}

// Lift takes a release out of quarantine.
func (h *Host) Lift(m fleet.ModelName, root fleet.Digest) {
	h.log.Warn("quarantine lifted", "model", m, "root", root.Short())
	h.tell(m, update.Event{Kind: update.Lifted, Root: root})
}

func (h *Host) verdict(m fleet.ModelName, root fleet.Digest, ask func(*probe.Watch) (probe.Verdict, bool)) (probe.Verdict, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watches[m]
	if w == nil || w.root != root || w.told {
		return probe.Verdict{}, false
	}
	v, bad := ask(w.watch)
	w.told = bad
	return v, bad
}

// check asks the watch over a release, if there is one, and passes on its verdict.
func (h *Host) check(m fleet.ModelName, root fleet.Digest, ask func(*probe.Watch) (probe.Verdict, bool)) {
	if v, bad := h.verdict(m, root, ask); bad {
		h.tell(m, update.Event{
			Kind: update.Sick, Root: root, Failure: update.Failure{Class: fleet.ReleaseFailure, Code: v.Code, Text: v.Text},
		})
	}
}
