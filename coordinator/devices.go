package coordinator

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
)

// devices keeps the device CA abreast of the policy: whom it lists is believed, and
// the newest whose key is in the fleet's folder issues.
type devices struct {
	fleet, folder string

	mu     sync.Mutex               // guards the following, and changes of the house's ca
	refs   []string                 // of keys that do not lie in the folder
	opened map[string]crypto.Signer // of refs
	listed []byte                   // the policy's target, as it was taken over
}

// devicesListed takes over what another policy lists, before a member can know of
// it: one that asks at once is to get a certificate of the right CA.
func (h *house) devicesListed(ctx context.Context, listed []byte) {
	if h.ca == nil {
		return // openTrust does it
	}
	if err := h.takeDevices(ctx, listed); err != nil {
		h.log.Error("device CA not taken over", "err", err, "hint", fault.Hint(err))
	}
}

// takeDevices takes over what the policy lists. Without a key to issue with, a
// coordinator goes on with everything else, and says so.
func (h *house) takeDevices(ctx context.Context, listed []byte) error {
	h.devices.mu.Lock()
	defer h.devices.mu.Unlock()
	if h.ca != nil && bytes.Equal(listed, h.devices.listed) && h.ca.Certificate() != nil {
		return nil
	}
	certs, err := parseCertificates(listed)
	if err != nil {
		return err
	}
	keys, err := h.devices.keys(ctx)
	if err != nil {
		h.log.Error("key of a device CA not opened", "err", err, "hint", fault.Hint(err))
	}
	a := ca.Authorities{Certificates: certs, Keys: keys, Lifetime: h.o.Certificates}
	was := h.devices.listed
	if h.ca == nil {
		if h.ca, err = ca.New(h.devices.fleet, a); err != nil {
			h.ca = nil
			return err
		}
	} else if err := h.ca.Replace(a); err != nil {
		return err
	}
	h.devices.listed = listed
	if bytes.Equal(was, listed) && h.ca.Certificate() == nil {
		return nil // said before
	}
	for _, c := range h.ca.Authorities() {
		h.log.Info("device CA", "fingerprint", c.Fingerprint.Short(), "until", c.Expires, "issues", c.Issues)
	}
	if h.ca.Certificate() == nil {
		text := "nobody can enrol or renew: the key of no device CA that the policy lists is here"
		h.log.Error(text, "hint", "put it into keys/ of the fleet's folder, as device-ca*.pem")
		h.events.Publish(api.Event{At: time.Now().UTC(), Kind: "alarm", Subject: "device CA", Text: text})
	}
	return nil
}

// keys are those in the folder, device-ca*.pem, and those that are named. What does
// not open is left out, and said.
func (d *devices) keys(ctx context.Context) (keys []crypto.Signer, bad error) {
	files, err := filepath.Glob(filepath.Join(d.folder, "keys", "device-ca*.pem"))
	if err != nil {
		return nil, fault.New(fault.Internal, "find keys", d.folder, err)
	}
	for _, ref := range append(files, d.refs...) {
		key := d.opened[ref]
		if key == nil {
			opened, err := keyref.Open(ctx, ref, keyref.Options{})
			if err != nil {
				bad = err
				continue
			}
			key = opened
			if strings.Contains(ref, "://") && !slices.Contains(files, ref) { // a file may be another one tomorrow
				d.opened[ref] = key
			}
		}
		keys = append(keys, key)
	}
	return keys, bad
}

// keepDevices follows the policy until ctx ends.
func (h *house) keepDevices(ctx context.Context) error {
	t := time.NewTicker(h.o.Tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := h.takeDevices(ctx, h.publisher.DeviceCA()); err != nil {
			h.log.Error("device CA not taken over", "err", err, "hint", fault.Hint(err))
		}
		if h.cell != nil {
			h.cell.pool.Recheck() // whom to believe may have changed
		}
		if err := h.renewCell(time.Now()); err != nil {
			h.log.Error("the coordinator's certificate in its cell is not renewed", "err", err)
		}
		if err := h.inventory.Settle(ctx, time.Now()); err != nil && ctx.Err() == nil {
			h.log.Error("refusals are not audited", "err", err)
		}
	}
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fault.Newf(fault.Invalid, "read device CA", "trust/device-ca.pem", "it holds something else than PEM certificates").
				WithHint("sign another policy: modelfleet key rotate device-ca")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read device CA", "trust/device-ca.pem", err)
		}
		out, text = append(out, cert), rest
	}
	return out, nil
}
