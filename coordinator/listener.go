package coordinator

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// The keys of the listener, in the data folder.
const (
	tlsKeyFile  = "tls.pem"
	nextKeyFile = "tls-next.pem"
)

// openListener makes the listener's certificate on a key that outlives it: the
// key is what members pin.
//
// Members learn the pin of the next key along with each certificate, long before it
// is needed: to replace the key, move the next one over it and start again. The next
// one need not lie here, where both would be stolen together; its public half does.
func (h *house) openListener(ctx context.Context) error {
	key, err := keyOrNew(ctx, filepath.Join(h.o.Data, tlsKeyFile))
	if err != nil {
		return err
	}
	h.address.Addr = h.listener.Addr().String()
	h.address.URL = or(h.o.URL, advertise(h.listener.Addr()))
	u, err := url.Parse(h.address.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fault.Newf(fault.Invalid, "read options", "-url", "%q is not an https URL", h.address.URL)
	}
	if h.tls, err = ca.ServerCertificate(key, []string{u.Hostname(), "localhost", "127.0.0.1", "::1"}, time.Now()); err != nil {
		return err
	}
	h.address.Pin = api.PinOf(h.tls.Leaf)
	next, err := nextPin(ctx, filepath.Join(h.o.Data, nextKeyFile))
	h.pins = []string{h.address.Pin, next}
	return err
}

func keyOrNew(ctx context.Context, path string) (*signer.Signer, error) {
	key, err := signer.Load(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = signer.Generate(path)
	}
	return key, err
}

// nextPin is the pin of the key that follows; path holds the key, or only its public
// half. One that is not there is made.
func nextPin(ctx context.Context, path string) (string, error) {
	var pub *ecdsa.PublicKey
	b, err := os.ReadFile(path)
	if err == nil {
		pub, err = signer.ParsePublic(b)
	}
	if err != nil {
		key, err := keyOrNew(ctx, path)
		if err != nil {
			return "", err
		}
		pub = key.ECDSA()
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fault.New(fault.Invalid, "read next TLS key", path, err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
