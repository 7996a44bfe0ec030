package agenttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/strict"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Coordinator speaks pkg/api over TLS for a [Fleet].
type Coordinator struct {
	Life time.Duration // of certificates; default an hour

	f     *Fleet
	srv   *httptest.Server
	codec *telemetry.Codec

	mu    sync.Mutex
	down  bool
	cut   map[fleet.MemberID]bool
	seeds []string
	ahead time.Duration
	keys  map[fleet.MemberID]*ecdsa.PublicKey
	rows  []telemetry.Row
	cell  api.Cell
	notes []string              // checkpoints that members handed over
	back  map[fleet.Digest]bool // certificates of members that came back; nil: all are good
}

// Secret is the secret of every join token.
const secretByte = 7

// Serve starts a coordinator.
func (f *Fleet) Serve() *Coordinator {
	codec, err := telemetry.NewCodec()
	if err != nil {
		f.t.Fatal(err)
	}
	c := &Coordinator{f: f, Life: time.Hour, codec: codec, keys: map[fleet.MemberID]*ecdsa.PublicKey{}, cut: map[fleet.MemberID]bool{}}
	c.cell = api.Cell{ID: cellID, Key: bytes.Repeat([]byte{1}, 32)}
	mux := http.NewServeMux()
	handle := func(pattern string, member bool, h func(r *http.Request, who fleet.MemberID) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			who, err := c.who(r, member)
			var out any
			if err == nil {
				out, err = h(r, who)
			}
			if err != nil {
				api.WriteProblem(w, err)
				return
			}
			json.NewEncoder(w).Encode(out)
		})
	}
	handle("POST /v1/enrol", false, c.enrol)
	handle("POST /v1/renew", true, c.renew)
	handle("POST /v1/comeback", false, c.comeback)
	handle("POST /v1/cells/{cell}/rows", true, c.takeRows)
	handle("GET /v1/cell", true, func(_ *http.Request, who fleet.MemberID) (any, error) {
		if slices.ContainsFunc(c.f.barred, func(r fleet.RevokedMember) bool { return r.ID == who }) {
			return nil, fault.Newf(fault.Denied, "get cell", string(who), "its identity was revoked")
		}
		return c.cellOf(), nil
	})
	handle("GET /v1/packs/{group}/url", true, func(*http.Request, fleet.MemberID) (any, error) {
		return nil, fault.Newf(fault.Invalid, "get pack url", "", "the bucket is a folder")
	})
	handle("GET /v1/time", true, c.signTime)
	handle("POST /v1/audit/witness", true, c.witnessed)
	handle("GET /v1/audit/consistency", true, c.consistency)
	mux.HandleFunc("GET /v1/packs/{group}", c.givePack)
	c.srv = httptest.NewUnstartedServer(mux)
	c.srv.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: f.ca.Pool()}
	c.srv.StartTLS()
	f.t.Cleanup(func() {
		c.srv.CloseClientConnections()
		c.srv.Close()
	})
	return c
}

// Token is a join token for this coordinator.
func (c *Coordinator) Token(edit func(*trust.JoinToken)) string {
	t := trust.JoinToken{
		URL: c.srv.URL, ID: "t1", Secret: [16]byte{secretByte}, Root: c.f.genesis.Pin, Group: group,
		TLS: sha256.Sum256(c.srv.Certificate().RawSubjectPublicKeyInfo), Expires: time.Now().Add(time.Hour).Truncate(time.Second).UTC(),
	}
	if edit != nil {
		edit(&t)
	}
	text, err := t.Encode()
	if err != nil {
		c.f.t.Fatal(err)
	}
	return text
}

// Down makes the coordinator answer nothing but 503, or stop to do so.
func (c *Coordinator) Down(down bool) {
	c.mu.Lock()
	c.down = down
	c.mu.Unlock()
	c.srv.CloseClientConnections()
}

// Cut makes the coordinator answer a member nothing but 503.
func (c *Coordinator) Cut(member fleet.MemberID) {
	c.mu.Lock()
	c.cut[member] = true
	c.mu.Unlock()
	c.srv.CloseClientConnections()
}

// Ahead sets the coordinator's clock, as it tells it to members.
func (c *Coordinator) Ahead(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = d
}

func (c *Coordinator) cellOf() api.Cell {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cell
}

// Rows are the rows taken so far, verified.
func (c *Coordinator) Rows() []telemetry.Row {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.rows)
}

func (c *Coordinator) who(r *http.Request, member bool) (fleet.MemberID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return "", fault.Newf(fault.Transient, "answer", "", "it is down")
	}
	if !member {
		return "", nil
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return "", fault.Newf(fault.Denied, "identify member", "", "no certificate was shown")
	}
	who := fleet.MemberID(r.TLS.PeerCertificates[0].URIs[0].Path[len("/device/"):])
	if err := c.void(r.TLS.PeerCertificates[0], who); err != nil {
		return who, err
	}
	if c.cut[who] {
		return who, fault.Newf(fault.Transient, "answer", string(who), "its line is cut")
	}
	if at := r.Header.Get(api.GossipHeader); at != "" && !slices.Contains(c.seeds, at) {
		c.seeds = append(c.seeds, at)
	}
	return who, nil
}

func read(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return fault.New(fault.Invalid, "read request", "", err)
	}
	return strict.Decode(data, v)
}

func (c *Coordinator) enrol(r *http.Request, _ fleet.MemberID) (any, error) {
	var req api.EnrolRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	want := trust.JoinToken{Secret: [16]byte{secretByte}}.SecretText()
	if req.TokenID != "t1" || req.Secret != want {
		return nil, fault.Newf(fault.Denied, "enrol", string(req.Member), "the token is not known").WithHint("make a new one")
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, fault.New(fault.Invalid, "enrol", string(req.Member), err)
	}
	cert, err := c.f.ca.Issue(req.Kind, req.Member, csr.PublicKey, c.Life, 1)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.keys[req.Member] = csr.PublicKey.(*ecdsa.PublicKey)
	c.mu.Unlock()
	return api.EnrolReply{
		Facts: fleet.Facts{
			ID: req.Member, Kind: req.Kind, Group: group, Labels: req.Labels, Enrolled: time.Now().UTC().Truncate(time.Second), Agent: req.Agent, Platform: req.Platform,
		},
		Certificate: cert, DeviceCA: c.f.ca.Certificate.Raw, Root: c.f.genesis.Root, Pack: c.f.Pack(),
		Cell: c.cellOf(),
	}, nil
}

func (c *Coordinator) renew(r *http.Request, who fleet.MemberID) (any, error) {
	var req api.RenewRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, fault.New(fault.Invalid, "renew", string(who), err)
	}
	cert, err := c.f.ca.Issue(fleet.Device, who, csr.PublicKey, c.Life, req.Generation+1)
	if err != nil {
		return nil, err
	}
	return api.RenewReply{Certificate: cert, DeviceCA: c.f.ca.Certificate.Raw, Generation: req.Generation + 1}, nil
}

func (c *Coordinator) takeRows(r *http.Request, who fleet.MemberID) (any, error) {
	batch, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	msgs, err := c.codec.Decode(batch)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, raw := range msgs {
		m, err := telemetry.ParseMessage(raw)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(slices.Collect(maps.Values(c.keys)), func(k *ecdsa.PublicKey) bool { return m.Verify(FleetName, k) == nil }) {
			return nil, fault.Newf(fault.Untrusted, "take rows", string(who), "a message is signed by no member")
		}
		if m.Row != nil {
			c.rows = append(c.rows, *m.Row)
		}
	}
	return api.RowsReply{Accepted: len(msgs), Time: time.Now().Add(c.ahead), Seeds: slices.Clone(c.seeds), CellKey: c.cell.Number}, nil
}

// signTime answers a nonce as the real one does.
func (c *Coordinator) signTime(r *http.Request, who fleet.MemberID) (any, error) {
	n, err := hex.DecodeString(r.URL.Query().Get("nonce"))
	if err != nil || len(n) != len(trust.Nonce{}) {
		return nil, fault.Newf(fault.Invalid, "sign time", string(who), "bad nonce")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return trust.SignTime(c.f.directs, trust.Nonce(n), time.Now().Add(c.ahead))
}

// givePack answers the long poll.
func (c *Coordinator) givePack(w http.ResponseWriter, r *http.Request) {
	if _, err := c.who(r, true); err != nil {
		api.WriteProblem(w, err)
		return
	}
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		pack, moved := c.f.current()
		etag := `"` + fleet.DigestOf(pack).String() + `"`
		if r.Header.Get("If-None-Match") != etag {
			w.Header().Set("ETag", etag)
			w.Write(pack)
			return
		}
		select {
		case <-moved:
		case <-timer.C:
			w.WriteHeader(http.StatusNotModified)
			return
		case <-r.Context().Done():
			return
		}
	}
}
