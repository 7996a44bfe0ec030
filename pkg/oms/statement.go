package oms

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
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

// statement is the in-toto statement in a bundle, as far as it was read.
type statement struct {
	kind      string // _type
	predicate string // predicateType
	subjects  []subject
	ser       serialization
	resources resources
	foreign   string // a key of the predicate that the format does not know
}

// subject is what a statement is about: the model, or before v1.0 a file.
type subject struct {
	name   string
	sha256 string
	others int // digests by other algorithms
}

// serialization is how the signer cut the folder up.
type serialization struct {
	there     bool
	method    Method
	hashType  string
	symlinks  *bool
	shardSize *int64
	ignored   []string
}

// parseStatement reads and checks a payload. Everything the format fixes is
// checked here, after the signature: each check has a vector, signed with the
// right key, that dies at it.
func parseStatement(payload []byte, from era, others ...HashType) (Manifest, error) {
	var s statement
	r := &reader{data: payload}
	if err := s.from(r); err != nil {
		return Manifest{}, within(err, "statement")
	}
	switch {
	case s.kind != statementType:
		return Manifest{}, errf(Malformed, "", "statement type %q", s.kind)
	case s.predicate == oldPredicateType && from != current:
		return s.manifestBefore1()
	case s.predicate != predicateType || from == before1:
		return Manifest{}, errf(Unsupported, "", "predicate type %q", s.predicate)
	case len(s.subjects) != 1:
		return Manifest{}, errf(Malformed, "", "%d subjects, want 1", len(s.subjects))
	case s.subjects[0].name == "":
		return Manifest{}, errf(Malformed, "", "the subject has no name")
	case s.foreign != "":
		return Manifest{}, errf(Malformed, "", "unknown key %q in the predicate", s.foreign)
	}
	m := Manifest{Name: s.subjects[0].name, Ignored: s.ser.ignored}
	if err := s.ser.into(&m, slices.Concat(others, []HashType{sha()})); err != nil {
		return Manifest{}, err
	}
	if err := s.resources.into(&m, from); err != nil {
		return Manifest{}, err
	}
	signed, err := readDigest([]byte(s.subjects[0].sha256))
	if err != nil || s.subjects[0].others > 0 {
		return Manifest{}, errf(Malformed, "", "the subject needs exactly one sha256 digest")
	}
	if signed != m.Root {
		return Manifest{}, errf(Root, "", "root digest is %s, the resources give %s", signed, m.Root)
	}
	return m, m.checkCoverage()
}

// within says where an error of the reader was; errors of a class stay.
func within(err error, where string) error {
	if ClassOf(err) != Unclassified {
		return err
	}
	return errf(Malformed, "", "%s: %w", where, err)
}

func (s *statement) from(r *reader) error {
	err := r.object(func(key []byte) error {
		switch string(key) {
		case "_type":
			return r.text(&s.kind)
		case "predicateType":
			return r.text(&s.predicate)
		case "subject":
			return r.array(func() error {
				if len(s.subjects) == MaxResources {
					return errf(TooLarge, "", "more than %d subjects", MaxResources)
				}
				var sub subject
				err := sub.from(r)
				s.subjects = append(s.subjects, sub)
				return err
			})
		case "predicate":
			return s.predicateFrom(r)
		}
		return r.unknown("the statement", key)
	})
	if err != nil {
		return err
	}
	return r.end()
}

func (s *subject) from(r *reader) error {
	return r.object(func(key []byte) error {
		switch string(key) {
		case "name":
			return r.text(&s.name)
		case "digest":
			return r.object(func(key []byte) error {
				if string(key) == hashType {
					return r.text(&s.sha256)
				}
				s.others++
				return r.skip()
			})
		}
		return r.skip() // in-toto lets a subject say more
	})
}

func (s *statement) predicateFrom(r *reader) error {
	return r.object(func(key []byte) error {
		switch string(key) {
		case "serialization":
			s.ser.there = true
			return s.ser.from(r)
		case "resources":
			s.resources.list = make([]Resource, 0, min(bytes.Count(r.data[r.at:], []byte(`"digest"`)), MaxResources))
			return r.array(func() error { return s.resources.one(r) })
		}
		s.foreign = string(key)
		return r.skip()
	})
}

func (s *serialization) from(r *reader) error {
	return r.object(func(key []byte) error {
		switch string(key) {
		case "method":
			return r.text((*string)(&s.method))
		case "hash_type":
			return r.text(&s.hashType)
		case "allow_symlinks":
			v, err := r.boolean()
			s.symlinks = &v
			return err
		case "shard_size":
			v, err := r.wholeNumber()
			s.shardSize = &v
			return err
		case "ignore_paths":
			return r.array(func() error {
				var p string
				err := r.text(&p)
				if err == nil && len(s.ignored) == maxIgnores {
					return errf(TooLarge, "", "more than %d ignored paths", maxIgnores)
				}
				s.ignored = append(s.ignored, p)
				return err
			})
		}
		return r.unknown("the serialization", key)
	})
}

// into checks the serialization and takes it into m.
func (s *serialization) into(m *Manifest, hashes []HashType) error {
	switch {
	case !s.there:
		return errf(Malformed, "", "no serialization")
	case s.symlinks == nil:
		return errf(Malformed, "", "allow_symlinks is missing")
	}
	switch s.method {
	case Files:
		if s.shardSize != nil {
			return errf(Malformed, "", "shard_size with method files")
		}
	case Shards:
		if s.shardSize == nil || *s.shardSize < 1 {
			return errf(Malformed, "", "method shards without a positive shard_size")
		}
		m.ShardSize = *s.shardSize
	case "":
		return errf(Malformed, "", "no serialization method")
	default:
		return errf(Unsupported, "", "serialization method %q, want files or shards", s.method)
	}
	m.Method = s.method
	i := slices.IndexFunc(hashes, func(h HashType) bool {
		return s.hashType == h.Name || m.Method == Shards && s.hashType == shardLabel(h.Name, m.ShardSize)
	})
	if i < 0 {
		return errf(Unsupported, "", "hash type %q, want %s", s.hashType, hashes[0].Name)
	}
	if hashes[i].Name != hashType {
		m.Hash = hashes[i]
	}
	for _, p := range s.ignored {
		if !cleanIgnore(p) {
			return errf(Irregular, p, "an ignored path that is not a clean relative path")
		}
	}
	return nil
}

// shardLabel is what the reference implementation calls the algorithm of a
// shard; its first versions gave the hash type that name as well.
func shardLabel(hash string, size int64) string { return fmt.Sprintf("%s-sharded-%d", hash, size) }

// resources are a predicate's resources as they are read: what they mean hangs
// on the serialization, which may follow them.
type resources struct {
	list   []Resource // Path holds the name
	labels []string   // the algorithms named, each once
	root   hash.Hash  // over the digests in the order given
}

func (rs *resources) one(r *reader) error {
	if len(rs.list) == MaxResources {
		return errf(TooLarge, "", "more than %d resources", MaxResources)
	}
	var out Resource
	var digest, label []byte
	err := r.object(func(key []byte) (err error) {
		switch string(key) {
		case "name":
			return r.text(&out.Path)
		case "digest":
			digest, err = r.raw()
			return err
		case "algorithm":
			label, err = r.raw()
			return err
		}
		return r.skip() // in-toto lets a resource say more, and wants it ignored
	})
	if err != nil {
		return err
	}
	if out.Path == "" {
		return errf(Malformed, "", "a resource without a name")
	}
	if err := out.read(digest); err != nil {
		return errf(Malformed, out.Path, "%w", err)
	}
	if !slices.ContainsFunc(rs.labels, func(l string) bool { return l == string(label) }) {
		if len(rs.labels) == 2 {
			return errf(Malformed, out.Path, "algorithm %.80q, a third one", label)
		}
		rs.labels = append(rs.labels, string(label))
	}
	if rs.root == nil {
		rs.root = sha256.New()
	}
	rs.root.Write(out.digest())
	rs.list = append(rs.list, out)
	return nil
}

// into checks the resources and takes them into m. The root digest is over them
// in the order given.
func (rs *resources) into(m *Manifest, from era) error {
	if len(rs.list) == 0 {
		return errf(Malformed, "", "no resources")
	}
	h := m.hashType()
	for _, label := range rs.labels {
		if label != h.Name && (m.Method != Shards || label != shardLabel(h.Name, m.ShardSize)) {
			return errf(Malformed, "", "algorithm %q of a resource, under hash type %s", label, h.Name)
		}
	}
	size := h.New().Size()
	m.Root = Digest(rs.root.Sum(nil))
	for i := range rs.list {
		r := &rs.list[i]
		sum := r.digest()
		if len(sum) != size {
			return errf(Malformed, r.Path, "a digest of %d bytes, %s has %d", len(sum), h.Name, size)
		}
		if h.Name != hashType {
			r.Digest, r.Other = Digest{}, string(sum)
		}
		r.End = -1
		if m.Method == Shards {
			var err error
			if r.Path, r.Start, r.End, err = splitShard(r.Path); err != nil {
				return err
			}
		}
		alone := from != current && r.Path == selfPath && len(rs.list) == 1
		if !cleanPath(r.Path) && !alone {
			return errf(Irregular, r.Path, "not a clean relative path")
		}
	}
	m.Resources = rs.list
	slices.SortFunc(m.Resources, compare)
	return nil
}

// checkCoverage wants each file once with Files, and with Shards each file from
// its first byte on without gap or overlap in whole shards but for the last.
// No path may be both a file and a folder, or both signed and ignored.
func (m *Manifest) checkCoverage() error {
	var before *Resource
	for i := range m.Resources {
		r := &m.Resources[i]
		same := before != nil && before.Path == r.Path
		if m.Method == Shards {
			at := int64(0)
			if same {
				at = before.End
			}
			last := i == len(m.Resources)-1 || m.Resources[i+1].Path != r.Path
			n := r.End - r.Start
			if r.Start != at || n <= 0 || n > m.ShardSize || !last && n != m.ShardSize {
				return errf(Uncovered, r.Path, "shard %d:%d does not follow byte %d in shards of %d", r.Start, r.End, at, m.ShardSize)
			}
		} else if same {
			return errf(Malformed, r.Path, "listed twice")
		}
		before = r
	}
	return m.checkTree()
}

func (m *Manifest) checkTree() error {
	for i, r := range m.Resources {
		if i > 0 && m.Resources[i-1].Path == r.Path {
			continue
		}
		for j := range r.Path {
			if r.Path[j] == '/' && m.has(r.Path[:j]) {
				return errf(Malformed, r.Path[:j], "both a file and a folder")
			}
		}
	}
	for _, p := range m.Ignored {
		if m.signed(p) {
			return errf(Malformed, p, "both signed and ignored")
		}
	}
	return nil
}

// has reports whether the file at path is signed.
func (m *Manifest) has(path string) bool {
	_, ok := slices.BinarySearchFunc(m.Resources, Resource{Path: path}, comparePath)
	return ok
}

// signed reports whether path, or anything below it, is signed.
func (m *Manifest) signed(path string) bool {
	if m.has(path) {
		return true
	}
	i, _ := slices.BinarySearchFunc(m.Resources, Resource{Path: path + "/"}, comparePath)
	return i < len(m.Resources) && inside(m.Resources[i].Path, path)
}

// splitShard reads "path:start:end"; the path may hold colons.
func splitShard(name string) (path string, start, end int64, err error) {
	bad := func() (string, int64, int64, error) { return "", 0, 0, errf(Malformed, name, "not path:start:end") }
	j := strings.LastIndexByte(name, ':')
	if j < 0 {
		return bad()
	}
	i := strings.LastIndexByte(name[:j], ':')
	if i < 0 {
		return bad()
	}
	start, ok1 := readOffset(name[i+1 : j])
	end, ok2 := readOffset(name[j+1:])
	if !ok1 || !ok2 {
		return bad()
	}
	return name[:i], start, end, nil
}

// readOffset reads a decimal number in its only form.
func readOffset(s string) (int64, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil && v >= 0 && (s == "0" || s[0] != '0' && s[0] != '+')
}

// read takes over a digest of 32 or 64 bytes; which it must be hangs on the hash.
func (r *Resource) read(b []byte) (err error) {
	if len(b) != 4*sha256.Size {
		r.Digest, err = readDigest(b)
		return err
	}
	var long [2 * sha256.Size]byte
	if _, err := hex.Decode(long[:], b); err != nil || bytes.ContainsAny(b, "ABCDEF") {
		return fmt.Errorf("digest %.80q is not lower-case hex", b)
	}
	r.Other = string(long[:])
	return nil
}

func readDigest(b []byte) (Digest, error) {
	var d Digest
	upper := bytes.ContainsAny(b, "ABCDEF")
	if n, err := hex.Decode(d[:min(len(d), len(b)/2)], b[:min(2*len(d), len(b))]); upper || err != nil || n != len(d) || len(b) != 2*len(d) {
		return d, fmt.Errorf("digest %.80q is not 64 lower-case hex digits", b)
	}
	return d, nil
}
