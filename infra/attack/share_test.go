package attack_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// A stolen device, with its identity, offers its neighbours model files and gives
// other bytes than were signed.
func TestNeighbourServesWrongFrames(t *testing.T) {
	t.Parallel()
	f, all := hall(t, "cam-1", "cam-2")
	f.runs("detector@1.0.0", "one", all...)
	thief := all[1]
	ends(t, thief.Program, syscall.SIGKILL)
	id, key := thief.stolen()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	sure(t, err)
	var lies atomic.Int64
	srv := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{id.Certificate}, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert,
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(path.Base(r.URL.Path)) // a length that is none gets an empty answer
			lies.Add(1)
			w.Header().Set("Content-Length", strconv.Itoa(n))
			w.Write(bytes.Repeat([]byte{'x'}, n))
		}),
	}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	pool, err := gossip.Open(gossip.Options{
		Fleet: id.Fleet, Cell: id.Cell.ID, Member: id.Facts.ID, Signer: key, Certificate: id.Certificate, Identify: anybody,
		Keys: [][]byte{id.Cell.Key}, Bind: thief.gossip, Seeds: []string{all[0].gossip}, Share: uint16(ln.Addr().(*net.TCPAddr).Port),
	})
	sure(t, err)
	t.Cleanup(func() { pool.Close() })
	until(t, "the thief is in the cell", func() (bool, string) { return len(pool.Members()) > 2, "" })

	content := make([]byte, 20<<20) // five frames: some are the thief's to fetch for the cell
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(content)
	f.publish("vision", "detector@2.0.0", string(content))
	f.start("detector@2.0.0")
	all[0].serves("detector@2.0.0")
	all[0].stillServes("detector@2.0.0", string(content))
	if lies.Load() == 0 {
		t.Error("no frame was the thief's to give")
	}
	f.sees("cam-1", "to have left out a liar", func(m api.MemberInfo) bool { return m.Delivery != nil && m.Delivery.Liars > 0 })
	f.logs("member was harmed", "left out cam-2")
}

// anybody takes a certificate at its word.
func anybody(der []byte) (gossip.Identity, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return gossip.Identity{}, err
	}
	kind, name, _ := strings.Cut(strings.TrimPrefix(cert.URIs[0].Path, "/"), "/")
	pub, _ := cert.PublicKey.(*ecdsa.PublicKey)
	return gossip.Identity{Member: fleet.MemberID(name), Key: pub, Coordinator: kind == "coordinator"}, nil
}
