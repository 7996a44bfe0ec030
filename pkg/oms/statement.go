package oms

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The fixed strings of the format.
const (
	mediaType     = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaTypeAny  = "application/vnd.dev.sigstore.bundle"
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://model_signing/signature/v1.0"
	hashType      = "sha256"
)

// statement is the in-toto statement in a bundle.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	Serialization serialization `json:"serialization"`
	Resources     []resource    `json:"resources"`
}

type serialization struct {
	Method        string      `json:"method"`
	HashType      string      `json:"hash_type"`
	AllowSymlinks *bool       `json:"allow_symlinks"`
	ShardSize     json.Number `json:"shard_size,omitempty"`
	IgnorePaths   []string    `json:"ignore_paths,omitempty"`
}

type resource struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Algorithm string `json:"algorithm"`
}

// encode is the statement's bytes.
func (m Manifest) encode() ([]byte, error) {
	s := statement{
		Type:          statementType,
		Subject:       []subject{{Name: m.Name, Digest: map[string]string{hashType: m.Root.String()}}},
		PredicateType: predicateType,
		Predicate: predicate{
			Serialization: serialization{
				Method: string(m.Method), HashType: hashType, AllowSymlinks: new(false), IgnorePaths: m.Ignored,
			},
		},
	}
	if m.Method == Shards {
		s.Predicate.Serialization.ShardSize = json.Number(strconv.FormatInt(m.ShardSize, 10))
	}
	for _, r := range m.named() {
		s.Predicate.Resources = append(s.Predicate.Resources,
			resource{Name: m.name(r), Digest: r.Digest.String(), Algorithm: hashType})
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// parseStatement reads and checks a payload. Everything the format fixes is
// checked here, after the signature: see the re-signed vectors in the tests.
func parseStatement(payload []byte) (Manifest, error) {
	if !utf8.Valid(payload) {
		return Manifest{}, errf(Malformed, "", "the statement is not UTF-8")
	}
	var s statement
	if err := DecodeStrict(payload, &s); err != nil {
		return Manifest{}, errf(Malformed, "", "statement: %w", err)
	}
	sz := s.Predicate.Serialization
	switch {
	case s.Type != statementType:
		return Manifest{}, errf(Malformed, "", "statement type %q", s.Type)
	case s.PredicateType != predicateType:
		return Manifest{}, errf(Unsupported, "", "predicate type %q", s.PredicateType)
	case len(s.Subject) != 1:
		return Manifest{}, errf(Malformed, "", "%d subjects, want 1", len(s.Subject))
	case sz.HashType != hashType:
		return Manifest{}, errf(Unsupported, "", "hash type %q, want sha256", sz.HashType)
	case sz.AllowSymlinks == nil:
		return Manifest{}, errf(Malformed, "", "allow_symlinks is missing")
	case len(s.Predicate.Resources) == 0:
		return Manifest{}, errf(Malformed, "", "no resources")
	case len(s.Predicate.Resources) > MaxResources:
		return Manifest{}, errf(TooLarge, "", "%d resources, at most %d", len(s.Predicate.Resources), MaxResources)
	}
	m := Manifest{Name: s.Subject[0].Name, Method: Method(sz.Method), Ignored: sz.IgnorePaths}
	for _, p := range m.Ignored {
		if !cleanPath(p) {
			return Manifest{}, errf(Irregular, p, "an ignored path that is not a clean relative path")
		}
	}
	if err := m.readMethod(sz); err != nil {
		return Manifest{}, err
	}
	if err := m.readResources(s.Predicate.Resources); err != nil {
		return Manifest{}, err
	}
	signed, err := readDigest(s.Subject[0].Digest[hashType])
	if err != nil || len(s.Subject[0].Digest) != 1 {
		return Manifest{}, errf(Malformed, "", "the subject needs exactly one sha256 digest")
	}
	if signed != m.Root {
		return Manifest{}, errf(Root, "", "root digest is %s, the resources give %s", signed, m.Root)
	}
	return m, m.checkCoverage()
}

func (m *Manifest) readMethod(sz serialization) error {
	switch m.Method {
	case Files:
		if sz.ShardSize != "" {
			return errf(Malformed, "", "shard_size with method files")
		}
	case Shards:
		// The reference implementation writes the size through a protobuf
		// Struct, as 1000000000.0.
		v, err := strconv.ParseFloat(string(sz.ShardSize), 64)
		if err != nil || v < 1 || v != math.Trunc(v) || v > 1<<53 {
			return errf(Malformed, "", "shard_size %q", sz.ShardSize)
		}
		m.ShardSize = int64(v)
	default:
		return errf(Unsupported, "", "serialization method %q", sz.Method)
	}
	return nil
}

// readResources fills Resources and computes Root in the order given.
func (m *Manifest) readResources(rs []resource) error {
	seen := make(map[string]bool, len(rs))
	m.Resources = make([]Resource, 0, len(rs))
	for _, r := range rs {
		if seen[r.Name] {
			return errf(Malformed, r.Name, "listed twice")
		}
		seen[r.Name] = true
		// The reference implementation labels shards "sha256-sharded-SIZE".
		if r.Algorithm != hashType && (m.Method != Shards || r.Algorithm != fmt.Sprintf("%s-sharded-%d", hashType, m.ShardSize)) {
			return errf(Malformed, r.Name, "algorithm %q under hash type sha256", r.Algorithm)
		}
		d, err := readDigest(r.Digest)
		if err != nil {
			return errf(Malformed, r.Name, "%w", err)
		}
		out := Resource{Path: r.Name, End: -1, Digest: d}
		if m.Method == Shards {
			if out.Path, out.Start, out.End, err = splitShard(r.Name); err != nil {
				return err
			}
		}
		if !cleanPath(out.Path) {
			return errf(Irregular, out.Path, "not a clean relative path")
		}
		m.Resources = append(m.Resources, out)
	}
	root := rootOf(m.Resources)
	m.seal()
	m.Root = root
	return nil
}

// checkCoverage wants each file once with Files, and with Shards each file from
// its first byte on without gap or overlap in whole shards but for the last.
// No path may be both a file and a folder.
func (m *Manifest) checkCoverage() error {
	var at int64
	files := map[string]bool{}
	for i, r := range m.Resources {
		files[r.Path] = true
		if m.Method == Files {
			continue
		}
		first := i == 0 || m.Resources[i-1].Path != r.Path
		last := i == len(m.Resources)-1 || m.Resources[i+1].Path != r.Path
		if first {
			at = 0
		}
		n := r.End - r.Start
		if r.Start != at || n <= 0 || n > m.ShardSize || (!last && n != m.ShardSize) {
			return errf(Uncovered, r.Path, "shard %d:%d does not follow byte %d in shards of %d", r.Start, r.End, at, m.ShardSize)
		}
		at = r.End
	}
	for p := range files {
		for i := range p {
			if p[i] == '/' && files[p[:i]] {
				return errf(Malformed, p[:i], "both a file and a folder")
			}
		}
	}
	return nil
}

// splitShard reads "path:start:end"; the path may hold colons.
func splitShard(name string) (path string, start, end int64, err error) {
	bad := errf(Malformed, name, "not path:start:end")
	j := strings.LastIndexByte(name, ':')
	if j < 0 {
		return "", 0, 0, bad
	}
	i := strings.LastIndexByte(name[:j], ':')
	if i < 0 {
		return "", 0, 0, bad
	}
	start, ok1 := readOffset(name[i+1 : j])
	end, ok2 := readOffset(name[j+1:])
	if !ok1 || !ok2 {
		return "", 0, 0, bad
	}
	return name[:i], start, end, nil
}

// readOffset reads a decimal number in its only form.
func readOffset(s string) (int64, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil && v >= 0 && strconv.FormatInt(v, 10) == s
}

func readDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return d, fmt.Errorf("digest %q is not 64 lower-case hex digits", s)
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return d, fmt.Errorf("digest %q is not 64 lower-case hex digits", s)
	}
	return d, nil
}
