package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// The objects of a log, below the fleet's prefix in the bucket.
const (
	CheckpointKey = "audit/checkpoint"
	// TilePrefix begins the keys of all tiles.
	TilePrefix = "audit/tile/"
	// TileHeight is C2SP's: a tile covers 256 hashes.
	TileHeight = 8
	tileWidth  = 1 << TileHeight
)

// DetailKey is the object of a detail that lies aside.
func DetailKey(d fleet.Digest) string { return "audit/detail/" + d.String() + ".json" }

// TileKey is the object of a tile of hashes, or of a bundle of entries (L is -1):
// audit/tile/L/N, audit/tile/entries/N, with ".p/W" behind the last when it is not
// full.
func TileKey(t tlog.Tile) string {
	p := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", t.H))
	if rest, ok := strings.CutPrefix(p, "data/"); ok {
		p = "entries/" + rest
	}
	return TilePrefix + p
}

// Tiles lists what has to be written when a log grows: bundles of entries, then
// tiles of hashes.
func Tiles(oldSize, newSize uint64) []tlog.Tile {
	hashes := tlog.NewTiles(TileHeight, int64(oldSize), int64(newSize))
	var out []tlog.Tile
	for _, t := range hashes {
		if t.L == 0 {
			out = append(out, tlog.Tile{H: t.H, L: -1, N: t.N, W: t.W})
		}
	}
	return append(out, hashes...)
}

// Bundle is the bytes of a bundle: each leaf with its length in front, 16 bits,
// big endian.
func Bundle(leaves [][]byte) ([]byte, error) {
	var out []byte
	for _, l := range leaves {
		if len(l) > MaxLeaf {
			return nil, fmt.Errorf("an entry of %d bytes, at most %d", len(l), MaxLeaf)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(l))), l...)
	}
	return out, nil
}

// ParseBundle takes a bundle apart.
func ParseBundle(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) || len(out) == tileWidth {
			return nil, errors.New("not a bundle of entries: it is cut off, or has more than 256")
		}
		n := int(binary.BigEndian.Uint16(b))
		out, b = append(out, b[2:2+n]), b[2+n:]
	}
	return out, nil
}

// Tree holds the hashes of a log in memory, in the order in which RFC 6962 logs
// are usually stored. The zero value is the empty log.
type Tree struct {
	hashes []tlog.Hash
	size   int64
}

// Append adds a leaf.
func (t *Tree) Append(leaf []byte) error {
	hs, err := tlog.StoredHashes(t.size, leaf, t)
	if err != nil {
		return err
	}
	t.hashes = append(t.hashes, hs...)
	t.size++
	return nil
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return uint64(t.size) }

// Root is the root hash of the first size leaves.
func (t *Tree) Root(size uint64) (tlog.Hash, error) { return RootOf(size, t) }

// ReadHashes makes a tree a [tlog.HashReader].
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("no hash %d in a tree of %d leaves", x, t.size)
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}
