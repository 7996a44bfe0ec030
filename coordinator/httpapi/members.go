package httpapi

import (
	"cmp"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// memberRoutes are the calls of members.
func (s *server) memberRoutes(mux *http.ServeMux) {
	s.handle(mux, "POST /v1/enrol", s.enrol)
	s.handle(mux, "POST /v1/renew", s.renew)
	s.handle(mux, "POST /v1/comeback", s.comeback)
	s.handle(mux, "POST /v1/cells/{cell}/rows", s.rows)
	s.handle(mux, "GET /v1/packs/{group}", s.pack)
	s.handle(mux, "GET /v1/packs/{group}/url", s.packURL)
	s.handle(mux, "POST /v1/objects", s.objects)
	s.handle(mux, "GET /v1/time", s.signedTime)
	s.handle(mux, "GET /v1/cell", s.cell)
	s.enrolRoutes(mux)
}

// member says which member asks, by its certificate. The listener takes any: it is
// judged here, at each call, so that a device CA that is removed is gone at once,
// and so that whoever is refused hears why.
func (s *server) member(r *http.Request) (store.Member, ca.Identity, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return store.Member{}, ca.Identity{}, fault.Newf(fault.Denied, "authenticate member", "", "no certificate was shown").
			WithHint("enrol with a join token, and show the certificate you get")
	}
	id, pub, err := s.CA.Verify(r.TLS.PeerCertificates[0].Raw, s.Now())
	if err != nil {
		return store.Member{}, id, err
	}
	if err := s.Inventory.CheckKey(id.ID, pub); err != nil {
		return store.Member{}, id, err
	}
	m, err := s.Inventory.Check(r.Context(), id, s.Now())
	return m, id, err
}

func (s *server) enrol(w http.ResponseWriter, r *http.Request) error {
	req, err := read[api.EnrolRequest](w, r)
	if err != nil {
		return err
	}
	pack, ok := s.Publisher.Pack(fleet.DefaultGroup) // before a use of the token is spent
	if !ok {
		return fault.Newf(fault.Transient, "enrol", string(req.Member), "the group has no trust pack yet").
			WithHint("the coordinator has just started: try again")
	}
	e, pending, err := s.Inventory.Enrol(r.Context(), req, r.RemoteAddr, s.Now())
	if err != nil {
		return err
	}
	if pending != nil {
		return answer(w, api.EnrolReply{Pending: pending})
	}
	return answer(w, api.EnrolReply{
		Facts: e.Member.Facts, Certificate: e.Certificate, Generation: e.Member.Generation,
		DeviceCA: e.Issuer, Root: s.Desk.Root(), Pack: pack.Body, Cell: e.Cell, Pins: s.Pins,
	})
}

// comeback has a member that is known prove its key, and gives it a certificate
// again. It shows none: the one it has is good for nothing.
func (s *server) comeback(w http.ResponseWriter, r *http.Request) error {
	req, err := read[api.ComebackRequest](w, r)
	if err != nil {
		return err
	}
	e, reply, err := s.Inventory.Comeback(r.Context(), req, r.RemoteAddr, s.Now())
	if err != nil {
		return err
	}
	if e.Certificate != nil {
		reply.RenewReply = s.renewed(e)
	}
	return answer(w, reply)
}

func (s *server) renewed(e inventory.Enrolled) api.RenewReply {
	return api.RenewReply{Certificate: e.Certificate, DeviceCA: e.Issuer, Generation: e.Member.Generation, Cell: e.Cell, Pins: s.Pins}
}

func (s *server) renew(w http.ResponseWriter, r *http.Request) error {
	_, id, err := s.member(r)
	if err != nil {
		return err
	}
	req, err := read[api.RenewRequest](w, r)
	if err != nil {
		return err
	}
	e, err := s.Inventory.Renew(r.Context(), id, req, s.Now())
	if err != nil {
		return err
	}
	return answer(w, s.renewed(e))
}

// rows takes a batch. Who sends it matters little: each row is signed by the
// member it speaks of.
func (s *server) rows(w http.ResponseWriter, r *http.Request) error {
	m, err := s.rowSender(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBatch))
	if err != nil {
		return bodyError(err)
	}
	msgs, err := s.codec.Decode(body)
	if err != nil {
		return err
	}
	if addr := r.Header.Get(api.GossipHeader); addr != "" && m.Cell != "" {
		if err := s.Inventory.SetGossipAddr(r.Context(), m.Facts.ID, addr); err != nil {
			return err
		}
	}
	res := s.Intake.Add(msgs, m.Facts.ID, s.Now())
	if err := s.Intake.Flush(r.Context()); err != nil { // what is acked is kept
		return err
	}
	out := api.RowsReply{
		Accepted: res.Accepted, Duplicate: res.Duplicate, Refused: res.Refused, Acked: res.Acked,
		Time: s.Now().UTC(), Seeds: s.Inventory.Seeds(m.Cell, m.Facts.ID), CellKey: s.Inventory.CellKey(m.Cell),
	}
	if pack, ok := s.Publisher.Pack(m.Facts.Group); ok {
		out.Directive = pack.Sequence
	}
	return answer(w, out)
}

// rowSender is the member that sends rows; a function may send them by its token
// alone, and is then nobody in particular.
func (s *server) rowSender(r *http.Request) (store.Member, error) {
	if err := s.functionToken(r); err == nil {
		return store.Member{Facts: fleet.Facts{ID: "-", Kind: fleet.Function, Group: fleet.DefaultGroup}}, nil
	}
	m, _, err := s.member(r)
	if err != nil {
		return m, err
	}
	if cell := r.PathValue("cell"); cell != "-" && cell != m.Cell {
		return m, fault.Newf(fault.Denied, "send rows", cell, "member %s is of cell %q", m.Facts.ID, m.Cell).
			WithHint("send to your own cell, or to -")
	}
	return m, nil
}

// cell gives a member its cell with the keys as they are now: after one changed.
func (s *server) cell(w http.ResponseWriter, r *http.Request) error {
	m, _, err := s.member(r)
	if err != nil {
		return err
	}
	if m.Cell == "" {
		return fault.Newf(fault.NotFound, "get cell", string(m.Facts.ID), "the member is of no cell")
	}
	return answer(w, s.Inventory.CellOf(m))
}

// functionToken checks the bearer token of a function; an error when there is
// none that is valid.
func (s *server) functionToken(r *http.Request) error {
	return s.Desk.FunctionToken(r.Context(), bearer(r))
}

// pack serves a group's trust pack. It authenticates itself, so anyone may have
// it. With If-None-Match and wait it is a long poll.
func (s *server) pack(w http.ResponseWriter, r *http.Request) error {
	g, err := fleet.ParseGroup(r.PathValue("group"))
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	if wait > 0 && !s.isMember(r) {
		leave, ok := s.waits.enter(throttle.Address(r))
		if !ok { // answered at once, as if it had not asked to wait
			wait = 0
		} else {
			defer leave()
		}
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		woken := s.Publisher.Woken()
		p, ok := s.Publisher.Pack(g)
		if !ok {
			return fault.Newf(fault.NotFound, "get pack", string(g), "the group has none")
		}
		if !matches(r.Header.Get("If-None-Match"), p.ETag) {
			w.Header().Set("ETag", p.ETag)
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("Content-Type", "application/zstd")
			_, err := w.Write(p.Body)
			return err
		}
		select {
		case <-woken:
			continue
		case <-deadline.C:
		case <-s.Stopping:
		case <-r.Context().Done():
			return r.Context().Err()
		}
		w.Header().Set("ETag", p.ETag)
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
}

// isMember reports whether a member that is as it should be asks.
func (s *server) isMember(r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	_, _, err := s.member(r)
	return err == nil
}

func waitOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fault.Newf(fault.Invalid, "get pack", "wait", "%q is not a duration", text).WithHint("write for example wait=50s")
	}
	return min(d, maxWait), nil
}

// matches reports whether an If-None-Match header names the tag.
func matches(header, etag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == etag || t == "*" {
			return true
		}
	}
	return false
}

// objects presigns URLs. Only what members read is signed: never the metadata
// that the coordinator alone writes, nor anything else in the bucket.
func (s *server) objects(w http.ResponseWriter, r *http.Request) error {
	const op = "presign objects"
	if err := s.functionToken(r); err != nil {
		if _, _, err := s.member(r); err != nil {
			return err
		}
	}
	req, err := read[api.PresignRequest](w, r)
	if err != nil {
		return err
	}
	if s.Presigner == nil {
		return noURLs(op)
	}
	if len(req.Keys) == 0 || len(req.Keys) > maxKeys {
		return fault.Newf(fault.Invalid, op, "", "%d keys, want 1 to %d", len(req.Keys), maxKeys)
	}
	for _, k := range req.Keys {
		if err := mayRead(k); err != nil {
			return err
		}
	}
	urls, expires, err := s.Presigner.Sign(r.Context(), req.Keys, urlTTL)
	if err != nil {
		return err
	}
	return answer(w, api.PresignReply{URLs: urls, Expires: expires})
}

// packURL gives a member what it reads its group's pack by while the coordinator is
// away, good for as long as a URL can be. It is for one small object that says
// itself whether it is genuine; model files are worth more, and get an hour.
func (s *server) packURL(w http.ResponseWriter, r *http.Request) error {
	const op = "get pack url"
	m, _, err := s.member(r)
	if err != nil {
		return err
	}
	g, err := fleet.ParseGroup(r.PathValue("group"))
	if err != nil {
		return err
	}
	if g != m.Facts.Group {
		return fault.Newf(fault.Denied, op, string(g), "member %s is of group %s", m.Facts.ID, m.Facts.Group).
			WithHint("ask for the pack of its own group")
	}
	if s.Presigner == nil {
		return noURLs(op)
	}
	urls, expires, err := s.Presigner.Sign(r.Context(), []string{g.PackKey()}, cmp.Or(s.PackURLs, registry.MaxURLLife))
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, api.PackURL{URL: urls[0], Life: fleet.Duration(time.Until(expires).Truncate(time.Millisecond))})
}

// noURLs is the answer where objects cannot be read by URLs.
func noURLs(op string) error {
	return fault.Newf(fault.Invalid, op, "", "the fleet's bucket is a folder, which has no URLs: the agent needs a -source").
		WithHint("start the agent with -source FOLDER, or the URL of a web server over it")
}

// mayRead refuses keys that members have no business with.
func mayRead(key string) error {
	if err := registry.CheckKey(key); err != nil {
		return err
	}
	for _, prefix := range []string{"files/", "models/", "packs/"} {
		if strings.HasPrefix(key, prefix) {
			return nil
		}
	}
	return fault.Newf(fault.Denied, "presign objects", key, "members read only below files/, models/ and packs/")
}
