package ledger

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// NewKey makes the Ed25519 key that signs a fleet's checkpoints. private is the
// content of keys/audit.key, public what the policy lists as trust/audit.vkey;
// both are one line in the note format, without its end.
func NewKey(fleetName string) (private, public string, err error) {
	private, public, err = note.GenerateKey(rand.Reader, OriginOf(fleetName))
	if err != nil {
		return "", "", fault.New(fault.Invalid, "make audit key", fleetName, err)
	}
	return private, public, nil
}

// ParseKey reads a public key: NAME+HASH+KEY, with or without the line's end.
func ParseKey(public string) (note.Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSuffix(public, "\n"))
	if err != nil {
		return nil, fmt.Errorf("not an Ed25519 note key (NAME+HASH+KEY): %w", err)
	}
	return v, nil
}

// LoadKey reads the private key file of a fleet's audit log, and makes its public
// key.
func LoadKey(path, fleetName string) (s note.Signer, public string, err error) {
	const op = "read audit key"
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, "", fault.New(fault.NotFound, op, path, err).WithHint("`modelfleet init` makes it; copy it from the fleet's folder")
	}
	private := strings.TrimSpace(string(b))
	if s, err = note.NewSigner(private); err == nil {
		public, err = publicOf(private)
	}
	if err != nil {
		// The library's error may quote what it was given, which is a secret.
		return nil, "", fault.New(fault.Invalid, op, path, errors.New("it holds no Ed25519 note key (PRIVATE+KEY+NAME+HASH+KEY on one line)"))
	}
	if s.Name() != OriginOf(fleetName) {
		return nil, "", fault.Newf(fault.Untrusted, op, path, "it is the key of %s, this is %s", s.Name(), OriginOf(fleetName)).
			WithHint("give the key from this fleet's folder")
	}
	return s, public, nil
}

// publicOf is the public key of a private one, PRIVATE+KEY+NAME+HASH+SEED.
func publicOf(private string) (string, error) {
	parts := strings.Split(private, "+")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(parts[min(4, len(parts)):], "+"))
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", errors.New("malformed")
	}
	return note.NewEd25519VerifierKey(parts[2], ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey))
}
