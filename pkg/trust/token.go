package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// TokenPrefix begins the text of every join token.
const TokenPrefix = "mft1."

// maxToken caps a token's text.
const maxToken = 2048

// JoinToken is all that a new member needs to trust a coordinator and to be
// trusted by it. Its text form is one word to paste.
type JoinToken struct {
	URL     string       // of the coordinator, https (or http on loopback)
	ID      string       // names the token at the coordinator
	Secret  [16]byte     // proves the holder; the coordinator keeps only a hash
	Root    fleet.Digest // SHA-256 of root.json
	TLS     fleet.Digest // SHA-256 of the SubjectPublicKeyInfo of the coordinator's TLS key; zero: judge by the system's CAs
	Group   fleet.Group
	Expires time.Time // whole seconds, UTC
}

// SecretText is the secret as it travels in api.EnrolRequest: hex.
func (t JoinToken) SecretText() string { return hex.EncodeToString(t.Secret[:]) }

// Encode is the token's text.
func (t JoinToken) Encode() (string, error) {
	if err := t.check(); err != nil {
		return "", fault.New(fault.Invalid, "write join token", t.ID, err)
	}
	var b []byte
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.Unix()))
	b = append(b, t.Secret[:]...)
	b = append(b, t.Root[:]...)
	b = append(b, t.TLS[:]...)
	for _, s := range []string{t.URL, t.ID, string(t.Group)} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	return TokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...)), nil
}

// String hides the secret, so that a token does not end up in a log.
func (t JoinToken) String() string { return TokenPrefix + "(" + t.ID + ")" }

// ParseJoinToken reads a token's text. Characters lost in copying are found.
func ParseJoinToken(s string) (JoinToken, error) {
	t, err := parseToken(strings.TrimSpace(s))
	if err != nil {
		return JoinToken{}, fault.New(fault.Invalid, "read join token", "", err).
			WithHint("copy the whole token again, or make one with: modelfleet token create")
	}
	return t, nil
}

func parseToken(s string) (JoinToken, error) {
	var t JoinToken
	body, ok := strings.CutPrefix(s, TokenPrefix)
	if !ok || len(s) > maxToken {
		return t, fmt.Errorf("it does not begin with %s", TokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	const fixed = 8 + 16 + 32 + 32
	if err != nil || len(b) < fixed+4 {
		return t, errors.New("characters are missing or damaged")
	}
	b, sum := b[:len(b)-4], b[len(b)-4:]
	if want := sha256.Sum256(b); !bytes.Equal(want[:4], sum) {
		return t, errors.New("its check sum is wrong: characters are missing or damaged")
	}
	t.Expires = time.Unix(int64(binary.BigEndian.Uint64(b)), 0).UTC()
	copy(t.Secret[:], b[8:])
	copy(t.Root[:], b[24:])
	copy(t.TLS[:], b[56:])
	b = b[fixed:]
	var fields [3]string
	for i := range fields {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) || (w > 1 && n < 1<<(7*(w-1))) {
			return t, errors.New("a field is damaged")
		}
		fields[i], b = string(b[w:w+int(n)]), b[w+int(n):]
	}
	if len(b) > 0 {
		return t, errors.New("something follows its last field")
	}
	t.URL, t.ID, t.Group = fields[0], fields[1], fleet.Group(fields[2])
	return t, t.check()
}

func (t JoinToken) check() error {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return fmt.Errorf("URL %q is not that of a coordinator", t.URL)
	case t.ID == "":
		return errors.New("the id is missing")
	case t.Root.IsZero():
		return errors.New("the root's digest is missing")
	case t.Secret == [16]byte{}:
		return errors.New("the secret is missing")
	case t.Expires.Unix() <= 0:
		return errors.New("the expiry is missing")
	}
	_, err = fleet.ParseGroup(string(t.Group))
	return err
}
