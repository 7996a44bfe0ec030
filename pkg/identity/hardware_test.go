package identity_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

func TestAMachineIsKnownByWhatMeansSomething(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"a PC": {map[string]string{
			"sys/class/dmi/id/product_uuid": "4C4C4544-0042-3510-8051-B4C04F4A3732\n", "sys/class/dmi/id/product_serial": " 7B5QJ72 \n", "etc/machine-id": "3d1219c7c4c5404aaa1f6d2a48adfda4\n",
		}, []string{"uuid:4c4c4544-0042-3510-8051-b4c04f4a3732", "serial:7b5qj72", "machine:3d1219c7c4c5404aaa1f6d2a48adfda4"}},
		"a board": {map[string]string{"sys/firmware/devicetree/base/serial-number": "1423521017453\x00"}, []string{"serial:1423521017453"}},
		"one whose maker wrote nothing": {map[string]string{
			"sys/class/dmi/id/product_uuid": "00000000-0000-0000-0000-000000000000", "sys/class/dmi/id/product_serial": "To Be Filled By O.E.M.",
		}, nil},
		"one of many": {map[string]string{"sys/class/dmi/id/product_serial": "0123456789", "sys/firmware/devicetree/base/serial-number": "Default string", "etc/machine-id": "uninitialized"}, nil},
		"nothing":     {nil, nil},
	} {
		root := t.TempDir()
		for path, content := range c.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(c.want, identity.HardwareNamesUnder(root)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	one, other := fleet.Digest{1}, fleet.Digest{2}
	if identity.HardwareDigest(one, "serial:7B5QJ72 ") != identity.HardwareDigest(one, "serial:7b5qj72") || identity.HardwareDigest(one, "serial:7b5qj72") == identity.HardwareDigest(other, "serial:7b5qj72") {
		t.Error("a digest is of the name in one fleet")
	}
}
