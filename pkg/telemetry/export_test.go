package telemetry

import (
	"crypto/ecdsa"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// VerifyRow reads a signed row and checks that pub signed these bytes for the
// fleet and that the row's key id is pub's.
func VerifyRow(msg []byte, fleetName string, pub *ecdsa.PublicKey) (Row, error) {
	r, err := ParseRow(msg)
	if err != nil {
		return Row{}, err
	}
	if err := verify(RowDomain, msg, fleetName, pub, r.Key); err != nil {
		return Row{}, err
	}
	return r, nil
}

// VerifyWindow reads a signed window and checks that pub signed these bytes for
// the fleet and that the window's key id is pub's.
func VerifyWindow(msg []byte, fleetName string, pub *ecdsa.PublicKey) (Window, error) {
	w, err := ParseWindow(msg)
	if err != nil {
		return Window{}, err
	}
	if err := verify(WindowDomain, msg, fleetName, pub, w.Key); err != nil {
		return Window{}, err
	}
	return w, nil
}

// ParseSketch reads an encoded sketch.
func ParseSketch(b []byte) (*Sketch, error) {
	s, err := parseSketch(b)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read sketch", "", err)
	}
	return s, nil
}
