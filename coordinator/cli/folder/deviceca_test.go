package folder_test

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// The old device CA goes out only when the coordinator issues with the new one and
// nobody relies on the old: else a whole fleet would be without certificates.
func TestADeviceCAIsTakenOutWhenNobodyReliesOnIt(t *testing.T) {
	key, err := signer.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	newest, err := folder.DeviceCA("orchard", key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(newest)
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	ca, old := fleet.DigestOf(block.Bytes), fleet.DigestOf([]byte("old"))
	for name, c := range map[string]struct {
		known []api.DeviceCAInfo
		says  string // "": it may
	}{
		"all have renewed":              {[]api.DeviceCAInfo{{Fingerprint: ca, Issues: true, Members: 9}, {Fingerprint: old}}, ""},
		"one has not":                   {[]api.DeviceCAInfo{{Fingerprint: ca, Issues: true, Members: 8}, {Fingerprint: old, Members: 1}}, "CA " + old.Short() + " is still in use by 1 member"},
		"the key of the new is missing": {[]api.DeviceCAInfo{{Fingerprint: ca}, {Fingerprint: old, Issues: true, Members: 9}}, "does not issue"},
		"nor is anybody enrolled":       {[]api.DeviceCAInfo{{Fingerprint: ca}, {Fingerprint: old, Issues: true}}, "does not issue"},
		"it has not heard of the new":   {[]api.DeviceCAInfo{{Fingerprint: old, Issues: true, Members: 9}}, "does not issue"},
		"it knows none":                 {nil, "does not issue"},
	} {
		err := folder.MayFinish(newest, c.known)
		if c.says == "" && err != nil || c.says != "" && (!fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
