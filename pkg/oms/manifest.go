package oms

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// Method is how a folder is cut into resources.
type Method string

// The methods.
const (
	Files  Method = "files"  // one digest a file
	Shards Method = "shards" // one digest a range of a file: a bad range is found alone
)

// DefaultShardSize is the size of shards when [Options] gives none: 4 MiB.
const DefaultShardSize = 4 << 20

// The caps on what is read from others.
const (
	MaxBundle    = 64 << 20 // bytes of a bundle
	MaxResources = 1 << 20  // entries of a manifest
	maxIgnores   = 4096     // ignored paths of a manifest
	maxChain     = 16       // certificates of a chain
)

// Digest is a SHA-256 digest.
type Digest [sha256.Size]byte

// String is the digest in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Resource is a signed file, or a range of one.
type Resource struct {
	Path   string // slash-separated, relative, clean
	Start  int64  // first byte; 0 with Files
	End    int64  // after the last byte; -1 with Files, where the length is not signed
	Digest Digest
	// Other is the raw digest by another hash than SHA-256, see [HashType];
	// Digest is zero then.
	Other string
}

// digest is the resource's digest, whatever the hash.
func (r *Resource) digest() []byte {
	if r.Other != "" {
		return []byte(r.Other)
	}
	return r.Digest[:]
}

// set takes over a digest by h.
func (r *Resource) set(h HashType, sum []byte) {
	if h.Name == hashType {
		r.Digest = Digest(sum)
		return
	}
	r.Other = string(sum)
}

// HashType is a hash that files are digested by. SHA-256, which every reader of
// the format has, is the default; who wants another that the format's registry
// lists (blake2b, blake3) hands it in. The root digest is SHA-256 in any case.
type HashType struct {
	Name string
	New  func() hash.Hash `json:"-"`
}

// sha is the hash type that needs not be handed in.
func sha() HashType { return HashType{hashType, sha256.New} }

// Manifest is what a bundle says of a folder. Resources are sorted by path and
// then by start. The root digest is over them in the order of their names as
// text, as the specification has it ("w:10:20" comes before "w:5:10"); a bundle
// made by others is taken in the order it gives.
type Manifest struct {
	Name      string // base name of the folder, for people
	Method    Method
	ShardSize int64    // 0 with Files
	Ignored   []string // paths the signer left out
	Resources []Resource
	Root      Digest   // SHA-256 over the resources' digests: the content's identity
	Hash      HashType // of the resources; zero: SHA-256
}

// hashType is the hash of the resources.
func (m *Manifest) hashType() HashType {
	if m.Hash.New == nil {
		return sha()
	}
	return m.Hash
}

// File is one file of a manifest.
type File struct {
	Path   string
	Size   int64      // -1 when the manifest does not say (Files)
	Ranges []Resource // its resources, from its first byte to its last
}

// Files lists the manifest's files sorted by path.
func (m Manifest) Files() []File {
	var files []File
	for _, r := range m.Resources {
		if n := len(files); n == 0 || files[n-1].Path != r.Path {
			files = append(files, File{Path: r.Path})
		}
		f := &files[len(files)-1]
		f.Ranges = append(f.Ranges, r)
		f.Size = r.End
	}
	return files
}

// Size is the bytes of all files, or -1 when the manifest does not say.
func (m Manifest) Size() int64 {
	var sum int64
	for _, f := range m.Files() {
		if f.Size < 0 {
			return -1
		}
		sum += f.Size
	}
	return sum
}

// seal computes the root digest and sorts the resources for readers.
func (m *Manifest) seal() {
	h := sha256.New()
	for _, r := range m.named() {
		h.Write(r.digest())
	}
	m.Root = Digest(h.Sum(nil))
	slices.SortFunc(m.Resources, compare)
}

// named is a resource with its name in the statement.
type named struct {
	Resource
	name string
}

// named is the resources in the order of their names.
func (m *Manifest) named() []named {
	rs := make([]named, 0, len(m.Resources))
	for _, r := range m.Resources {
		name := r.Path
		if m.Method == Shards {
			name = fmt.Sprintf("%s:%d:%d", r.Path, r.Start, r.End)
		}
		rs = append(rs, named{r, name})
	}
	slices.SortFunc(rs, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return rs
}

// same reports whether two manifests say the same.
func (m Manifest) same(n Manifest) bool {
	n.Resources = slices.SortedFunc(slices.Values(n.Resources), compare)
	return m.Name == n.Name && m.Root == n.Root && slices.Equal(m.Ignored, n.Ignored) && slices.Equal(m.Resources, n.Resources)
}

func compare(a, b Resource) int {
	return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Start, b.Start))
}

func comparePath(a, b Resource) int { return strings.Compare(a.Path, b.Path) }

func rootOf(rs []Resource) Digest {
	h := sha256.New()
	for _, r := range rs {
		h.Write(r.digest())
	}
	return Digest(h.Sum(nil))
}
