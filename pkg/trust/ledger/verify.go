package ledger

import (
	"bytes"
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Get reads an object of the bucket whole. An absent one is a fault of kind NotFound.
type Get func(ctx context.Context, key string) ([]byte, error)

const verifyOp = "verify audit log"

// Verify reads the whole log of a checkpoint out of its tiles, from the first
// entry on, and hands over each entry (index from 0) once its bundle agrees with
// the tile of hashes above it. At the end the tree is the checkpoint's, or an
// error of kind Untrusted names the object that was tampered with. It returns the
// tree, for proofs.
func Verify(ctx context.Context, get Get, c Checkpoint, visit func(index uint64, leaf []byte, e Entry) error) (*Tree, error) {
	tree := &Tree{}
	for n := uint64(0); n*tileWidth < c.Size; n++ {
		t := tlog.Tile{H: TileHeight, L: -1, N: int64(n), W: int(min(c.Size-n*tileWidth, tileWidth))}
		leaves, err := readBundle(ctx, get, t)
		if err != nil {
			return nil, err
		}
		for _, l := range leaves {
			if err := tree.Append(l); err != nil {
				return nil, fault.New(fault.Internal, verifyOp, TileKey(t), err)
			}
		}
		t.L = 0
		if err := checkTile(ctx, get, t, tree, c); err != nil {
			return nil, err
		}
		for i, l := range leaves {
			index := n*tileWidth + uint64(i)
			e, err := ParseEntry(l)
			if err != nil {
				return nil, fault.New(fault.Untrusted, verifyOp, fmt.Sprintf("entry %d", index+1), err)
			}
			if err := visit(index, l, e); err != nil {
				return nil, err
			}
		}
	}
	for _, t := range tlog.NewTiles(TileHeight, 0, int64(c.Size)) {
		if t.L > 0 {
			if err := checkTile(ctx, get, t, tree, c); err != nil {
				return nil, err
			}
		}
	}
	root, err := tree.Root(c.Size)
	if err != nil {
		return nil, fault.New(fault.Internal, verifyOp, CheckpointKey, err)
	}
	if root != c.Root {
		return nil, fault.Newf(fault.Untrusted, verifyOp, CheckpointKey, "its root hash is %s, that of its %d entries in the tiles is %s", c.Root, c.Size, root).
			WithHint("entries were changed, added or taken out after the checkpoint was signed: compare with a copy of the tiles kept elsewhere")
	}
	return tree, nil
}

// Restore reads the leaves from one size of a log to that of a checkpoint out of
// the bundles. What they are has to be checked by their root hash.
func Restore(ctx context.Context, get Get, from, to uint64) ([][]byte, error) {
	var out [][]byte
	for n := from / tileWidth; n*tileWidth < to; n++ {
		t := tlog.Tile{H: TileHeight, L: -1, N: int64(n), W: int(min(to-n*tileWidth, tileWidth))}
		leaves, err := readBundle(ctx, get, t)
		if err != nil {
			return nil, err
		}
		out = append(out, leaves[max(from, n*tileWidth)-n*tileWidth:]...)
	}
	return out, nil
}

// Load reads one entry's leaf out of its bundle, unchecked.
func Load(ctx context.Context, get Get, size, index uint64) ([]byte, error) {
	if index >= size {
		return nil, fault.Newf(fault.NotFound, "read audit log", fmt.Sprintf("entry %d", index+1), "the log has %d entries", size)
	}
	leaves, err := Restore(ctx, get, index, index+1)
	if err != nil {
		n := index / tileWidth
		leaves, err = Restore(ctx, get, index, min(size, (n+1)*tileWidth))
	}
	if err != nil {
		return nil, err
	}
	return leaves[0], nil
}

// readTile reads a tile or, when a partial one was tidied away, the full one that
// took its place; per is the bytes of one of its parts, 0 when they vary.
func readTile(ctx context.Context, get Get, t tlog.Tile) ([]byte, error) {
	b, err := get(ctx, TileKey(t))
	if fault.Is(err, fault.NotFound) && t.W < tileWidth {
		full := t
		full.W = tileWidth
		if whole, ferr := get(ctx, TileKey(full)); ferr == nil {
			return whole, nil
		}
	}
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.Untrusted, verifyOp, TileKey(t), err).
			WithHint("a part of the log is missing: copy the tiles again, or put back the object")
	}
	return b, err
}

func readBundle(ctx context.Context, get Get, t tlog.Tile) ([][]byte, error) {
	b, err := readTile(ctx, get, t)
	if err != nil {
		return nil, err
	}
	leaves, err := ParseBundle(b)
	if err == nil && len(leaves) < t.W {
		err = fmt.Errorf("it holds %d entries, want %d", len(leaves), t.W)
	}
	if err != nil {
		return nil, fault.New(fault.Untrusted, verifyOp, TileKey(t), err).WithHint(hintTampered)
	}
	return leaves[:t.W], nil
}

// checkTile compares a tile of hashes with what the entries make.
func checkTile(ctx context.Context, get Get, t tlog.Tile, tree *Tree, c Checkpoint) error {
	want, err := tlog.ReadTileData(t, tree)
	if err != nil {
		return fault.New(fault.Internal, verifyOp, TileKey(t), err)
	}
	got, err := readTile(ctx, get, t)
	if err != nil {
		return err
	}
	if len(got) >= len(want) && bytes.Equal(got[:len(want)], want) {
		return nil
	}
	if t.L == 0 {
		for i := range min(len(got), len(want)) / tlog.HashSize {
			if !bytes.Equal(got[i*tlog.HashSize:(i+1)*tlog.HashSize], want[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
				return differs(ctx, get, t, uint64(t.N*tileWidth)+uint64(i), c)
			}
		}
	}
	return fault.Newf(fault.Untrusted, verifyOp, TileKey(t), "tile %s does not hold the hashes of the entries in the bundles", TileKey(t)).WithHint(hintTampered)
}

const hintTampered = "the object was tampered with: compare with a copy kept elsewhere"

// differs says which of two objects that disagree about an entry is the wrong one:
// the checkpoint was signed over the hash that leads to its root.
func differs(ctx context.Context, get Get, t tlog.Tile, index uint64, c Checkpoint) error {
	bundle := t
	bundle.L = -1
	signed := tlog.TileHashReader(tlog.Tree{N: int64(c.Size), Hash: c.Root}, tileReader{ctx, get})
	if _, err := signed.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))}); err == nil {
		return fault.Newf(fault.Untrusted, verifyOp, TileKey(bundle), "entry %d in it is not the one that was signed: its hash in %s leads to the checkpoint's root", index+1, TileKey(t)).WithHint(hintTampered)
	}
	return fault.Newf(fault.Untrusted, verifyOp, TileKey(t), "it does not hold the hash of entry %d in %s, nor one that leads to the checkpoint's root", index+1, TileKey(bundle)).WithHint(hintTampered)
}

// tileReader reads tiles for [tlog.TileHashReader], which checks them.
type tileReader struct {
	ctx context.Context
	get Get
}

// Height is the height of a tile.
func (r tileReader) Height() int { return TileHeight }

// ReadTiles reads tiles out of the bucket.
func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := readTile(r.ctx, r.get, t)
		if err == nil && len(b) < t.W*tlog.HashSize {
			err = fmt.Errorf("tile %s is cut short", TileKey(t))
		}
		if err != nil {
			return nil, err
		}
		out[i] = b[:t.W*tlog.HashSize]
	}
	return out, nil
}

// SaveTiles keeps nothing.
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}
