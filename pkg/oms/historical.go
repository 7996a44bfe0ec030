package oms

import (
	"crypto"
	"crypto/ecdsa"
	"slices"
	"strconv"
)

const (
	// oldPredicateType is that of model-signing 0.2, the first release.
	oldPredicateType = "https://model_signing/Digests/v0.1"
	// selfPath is how releases before 1.1 named the one file of a model.
	selfPath = "."
)

// era says which releases' shapes a statement may have.
type era uint8

const (
	current    era = iota // the specification's
	historical            // those before v1.1 too
	before1               // only that of 0.2, whose encoding was signed
)

// ParseHistorical reads a bundle like [Parse], and those of the reference
// implementation's first releases too: 0.2, which listed the files as subjects
// and signed a Python literal in place of the payload, and those before 1.1,
// which call the file of a one-file model ".". What they lack they do not
// protect: only whoever must read old bundles should ask for it.
func ParseHistorical(data []byte) (*Bundle, error) {
	b, err := Parse(data)
	if err == nil {
		b.era = historical
	}
	return b, err
}

// manifestBefore1 is what a statement of release 0.2 says: the digest of each
// file, and nothing of how they were found or who the whole is.
func (s *statement) manifestBefore1() (Manifest, error) {
	m := Manifest{Method: Files}
	if len(s.subjects) == 0 {
		return m, errf(Malformed, "", "no subjects")
	}
	for _, sub := range s.subjects {
		d, err := readDigest([]byte(sub.sha256))
		if err != nil || sub.others > 0 {
			return Manifest{}, errf(Malformed, sub.name, "it needs exactly one sha256 digest")
		}
		if !cleanPath(sub.name) && (sub.name != selfPath || len(s.subjects) > 1) {
			return Manifest{}, errf(Irregular, sub.name, "not a clean relative path")
		}
		m.Resources = append(m.Resources, Resource{Path: sub.name, End: -1, Digest: d})
	}
	slices.SortFunc(m.Resources, compare)
	m.Root = rootOf(m.Resources)
	return m, m.checkCoverage()
}

// signedBefore1 reports whether pub signed the payload as release 0.2 did: it
// hashed with SHA-256 whatever the key, and encoded the payload as Python
// prints bytes.
func (b *Bundle) signedBefore1(pub *ecdsa.PublicKey) bool {
	body := b.envelope.payload
	text := "DSSEV1 " + strconv.Itoa(len(payloadType)) + " " + payloadType + " " + strconv.Itoa(len(body)) + " " + pythonBytes(body)
	h := crypto.SHA256.New()
	h.Write([]byte(text))
	return ecdsa.VerifyASN1(pub, h.Sum(nil), b.envelope.sig)
}

// pythonBytes is b as Python's repr prints it.
func pythonBytes(b []byte) string {
	quote := byte('\'')
	if slices.Contains(b, '\'') && !slices.Contains(b, '"') {
		quote = '"'
	}
	const digits = "0123456789abcdef"
	out := append(make([]byte, 0, len(b)+len(b)/4+3), 'b', quote)
	for _, c := range b {
		switch {
		case c == quote || c == '\\':
			out = append(out, '\\', c)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c < ' ' || c >= 0x7f:
			out = append(out, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			out = append(out, c)
		}
	}
	return string(append(out, quote))
}
