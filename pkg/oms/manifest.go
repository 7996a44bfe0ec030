package oms

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
}

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
	Root      Digest // SHA-256 over the resources' digests: the content's identity
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
	m.Root = rootOf(m.named())
	slices.SortFunc(m.Resources, compare)
}

// named is the resources in the order of their names.
func (m *Manifest) named() []Resource {
	rs := slices.Clone(m.Resources)
	slices.SortFunc(rs, func(a, b Resource) int { return strings.Compare(m.name(a), m.name(b)) })
	return rs
}

// name is how a resource is called in the statement.
func (m *Manifest) name(r Resource) string {
	if m.Method == Shards {
		return fmt.Sprintf("%s:%d:%d", r.Path, r.Start, r.End)
	}
	return r.Path
}

func compare(a, b Resource) int {
	if c := strings.Compare(a.Path, b.Path); c != 0 {
		return c
	}
	switch {
	case a.Start < b.Start:
		return -1
	case a.Start > b.Start:
		return 1
	}
	return 0
}

func rootOf(rs []Resource) Digest {
	h := sha256.New()
	for _, r := range rs {
		h.Write(r.Digest[:])
	}
	return Digest(h.Sum(nil))
}
