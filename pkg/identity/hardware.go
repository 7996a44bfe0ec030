package identity

import (
	"crypto/ecdsa"
	"os"
	"path/filepath"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// Fingerprint names a key for two people, or a person and a log, to compare: the
// first half of the SHA-256 of its SubjectPublicKeyInfo, in groups of eight digits.
func Fingerprint(pub *ecdsa.PublicKey) (string, error) {
	sum, err := signer.Fingerprint(pub)
	if err != nil {
		return "", err
	}
	return strings.Join([]string{sum[:8], sum[8:16], sum[16:24], sum[24:32]}, "-"), nil
}

// hardwareDomain separates digests of hardware from every other hash.
const hardwareDomain = "modelfleet/hardware/v1\x00"

// HardwareNames is what this machine is known by, the surest first: uuid:, of its
// firmware, serial:, of its maker, and machine:, of its operating system. Some are
// for root alone to read. All are claims: they keep the wrong machine out, not a
// forger who knows the right one's.
func HardwareNames() []string { return hardwareNames("/") }

func hardwareNames(root string) []string {
	var names []string
	for _, at := range [][2]string{
		{"uuid", "sys/class/dmi/id/product_uuid"},
		{"serial", "sys/class/dmi/id/product_serial"},
		{"serial", "sys/firmware/devicetree/base/serial-number"},
		{"machine", "etc/machine-id"},
	} {
		b, err := os.ReadFile(filepath.Join(root, at[1]))
		if err != nil || len(b) > 256 { // not there, or not ours to read
			continue
		}
		if value := normal(string(b)); meaningful(value) {
			names = append(names, at[0]+":"+value)
		}
	}
	return names
}

// normal is a name as it is compared: without what differs between two readers.
func normal(s string) string { return strings.ToLower(strings.Trim(s, " \t\r\n\x00")) }

// meaningful tells a serial number from what makers write who have none.
func meaningful(value string) bool {
	for _, filler := range []string{"filled by", "default string", "not specified", "system serial number", "not applicable", "none", "unknown", "invalid", "uninitialized"} {
		if strings.Contains(value, filler) {
			return false
		}
	}
	digits := strings.Trim(value, "-. ")
	return len(digits) >= 4 && strings.Trim(digits, digits[:1]+"-") != "" && digits != "123456789" && digits != "0123456789"
}

// HardwareDigest is a name as it travels and is kept: it tells nothing about the
// machine to who does not know the name, and is another one in another fleet, which
// is named by the digest of its root.
func HardwareDigest(root fleet.Digest, name string) fleet.Digest {
	return fleet.DigestOf([]byte(hardwareDomain + root.String() + "\x00" + normal(name)))
}

// Hardware is the digests of this machine's names, the surest first.
func Hardware(root fleet.Digest) []fleet.Digest {
	var out []fleet.Digest
	for _, name := range HardwareNames() {
		out = append(out, HardwareDigest(root, name))
	}
	return out
}
