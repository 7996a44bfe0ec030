package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// The caps on packs. A pack is a few KB; the caps stop bombs.
const (
	MaxPack      = 1 << 20 // bytes as fetched
	MaxPackPlain = 8 << 20 // bytes once decompressed
	maxRoots     = 64
)

// Pack is everything a member of one group needs to believe a directive, in one
// object: JSON compressed by zstd. It authenticates itself, so anyone may carry
// it. Metadata is kept byte for byte: hashes are over those bytes.
type Pack struct {
	Roots      []json.RawMessage          // root versions, oldest first
	Timestamp  json.RawMessage            // role timestamp
	Snapshot   json.RawMessage            // role snapshot
	Policy     json.RawMessage            // role targets
	Fleet      json.RawMessage            // role fleet
	Publishers map[string]json.RawMessage // roles pub-TEAM of the releases the directive names, and of its models
	Directive  json.RawMessage            // target fleet/GROUP.json
	Targets    map[string][]byte          // the policy's own targets, by path
	Audit      json.RawMessage            // ledger.Proof of the directive; absent while the policy lists no audit key
}

// packFile is a pack's JSON.
type packFile struct {
	Schema     int                        `json:"schema"`
	Roots      []json.RawMessage          `json:"roots"`
	Timestamp  json.RawMessage            `json:"timestamp"`
	Snapshot   json.RawMessage            `json:"snapshot"`
	Policy     json.RawMessage            `json:"policy"`
	Fleet      json.RawMessage            `json:"fleet"`
	Publishers map[string]json.RawMessage `json:"publishers"`
	Directive  json.RawMessage            `json:"directive"`
	Targets    map[string][]byte          `json:"targets"`
	Audit      json.RawMessage            `json:"audit"`
}

// packSchema is the schema number this code writes and reads.
const packSchema = 1

// Encode is the pack's bytes; the same pack gives the same bytes.
func (p Pack) Encode() ([]byte, error) {
	w := &packWriter{}
	w.printf(`{"schema":%d,"roots":[`, packSchema)
	for i, r := range p.Roots {
		w.comma(i)
		w.raw(r)
	}
	w.printf(`],"timestamp":`)
	w.raw(p.Timestamp)
	w.printf(`,"snapshot":`)
	w.raw(p.Snapshot)
	w.printf(`,"policy":`)
	w.raw(p.Policy)
	w.printf(`,"fleet":`)
	w.raw(p.Fleet)
	w.printf(`,"publishers":{`)
	for i, k := range slices.Sorted(maps.Keys(p.Publishers)) {
		w.comma(i)
		w.printf("%q:", k)
		w.raw(p.Publishers[k])
	}
	w.printf(`},"directive":`)
	w.raw(p.Directive)
	targets, err := json.Marshal(p.Targets)
	if err != nil {
		return nil, err
	}
	w.printf(`,"targets":%s,"audit":`, targets)
	if len(p.Audit) == 0 {
		w.printf("null")
	} else {
		w.raw(p.Audit)
	}
	w.printf("}")
	if w.err != nil {
		return nil, w.err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true)) // packs are small: the best level would cost 60 MB for a few bytes less
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	out := enc.EncodeAll(w.buf.Bytes(), nil)
	if len(out) > MaxPack || w.buf.Len() > MaxPackPlain {
		return nil, fmt.Errorf("a pack of %d bytes (%d plain) is over the cap of %d (%d)", len(out), w.buf.Len(), MaxPack, MaxPackPlain)
	}
	return out, nil
}

// packWriter writes JSON in which foreign values stay byte for byte, which
// encoding/json would compact.
type packWriter struct {
	buf bytes.Buffer
	err error
}

func (w *packWriter) printf(format string, args ...any) { fmt.Fprintf(&w.buf, format, args...) }

func (w *packWriter) comma(i int) {
	if i > 0 {
		w.buf.WriteByte(',')
	}
}

func (w *packWriter) raw(v json.RawMessage) {
	if w.err == nil && (!json.Valid(v) || len(bytes.TrimSpace(v)) != len(v)) {
		w.err = errors.New("a part of the pack is not one JSON value without space around it")
	}
	w.buf.Write(v)
}

// DecodePack reads a pack within the caps. It believes nothing of it.
func DecodePack(data []byte) (Pack, error) {
	if len(data) > MaxPack {
		return Pack{}, broken(RuleSize, "%d bytes, at most %d", len(data), MaxPack)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxPackPlain), zstd.WithDecoderMaxWindow(MaxPackPlain))
	if err != nil {
		return Pack{}, err
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(data, nil)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return Pack{}, broken(RuleSize, "more than %d bytes once decompressed", MaxPackPlain)
	case err != nil:
		return Pack{}, broken(RuleFormat, "decompress: %w", err)
	case len(plain) > MaxPackPlain:
		return Pack{}, broken(RuleSize, "%d bytes once decompressed, at most %d", len(plain), MaxPackPlain)
	}
	var f packFile
	if err := oms.DecodeStrict(plain, &f); err != nil {
		return Pack{}, broken(RuleFormat, "%w", err)
	}
	switch {
	case f.Schema != packSchema:
		return Pack{}, broken(RuleFormat, "schema %d, this software reads %d: update it", f.Schema, packSchema)
	case len(f.Roots) == 0 || len(f.Roots) > maxRoots:
		return Pack{}, broken(RuleFormat, "%d roots, want 1 to %d", len(f.Roots), maxRoots)
	case f.Timestamp == nil || f.Snapshot == nil || f.Policy == nil || f.Fleet == nil || f.Directive == nil:
		return Pack{}, broken(RuleFormat, "a part is missing")
	}
	p := Pack{
		Roots: f.Roots, Timestamp: f.Timestamp, Snapshot: f.Snapshot, Policy: f.Policy, Fleet: f.Fleet,
		Publishers: f.Publishers, Directive: f.Directive, Targets: f.Targets,
	}
	if !bytes.Equal(f.Audit, []byte("null")) {
		p.Audit = f.Audit
	}
	return p, nil
}
