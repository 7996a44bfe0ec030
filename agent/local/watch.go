package local

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// watch streams each model's state, first as it is and then as it changes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, stopping func() bool) error {
	only, id := r.URL.Query().Get("model"), r.URL.Query().Get("lease")
	if id != "" {
		if !s.leases.attach(id) {
			return noLease(id)
		}
		defer func() {
			if l, gone := s.leases.detach(id); gone && !stopping() {
				s.lost(l, l.app+" went away without unloading it", false)
			}
		}()
	}
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	s.mu.Lock()
	s.watchers[wake] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, wake)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	sent := map[fleet.ModelName]string{}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-beat.C:
			if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
				return nil // the reader is gone; the deferred call says so
			}
		case <-wake:
			if err := s.send(w, only, sent); err != nil {
				return nil
			}
		}
		if err := out.Flush(); err != nil {
			return nil
		}
	}
}

// send writes the models that differ from what this watcher saw last.
func (s *Server) send(w io.Writer, only string, sent map[fleet.ModelName]string) error {
	for _, m := range s.o.Host.Listing().Models {
		if only != "" && string(m.Name) != only {
			continue
		}
		data, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if sent[m.Name] == string(data) {
			continue
		}
		sent[m.Name] = string(data)
		if _, err := fmt.Fprintf(w, "event: model\ndata: %s\n\n", data); err != nil {
			return err
		}
	}
	return nil
}
