package oms

import (
	"bytes"
	"strings"
	"unicode"

	"github.com/modelfleet/modelfleet/pkg/strict"
)

// DecodeStrict reads one JSON value into v, as strictly as this package reads
// its own. It refuses what encoding/json lets pass and two readers may
// understand differently: duplicate keys, keys that differ by case only, keys that
// are not written as the field's name is, text that is not Unicode, unknown
// fields, and anything after the value.
func DecodeStrict(data []byte, v any) error {
	r := &reader{data: data}
	if err := r.skip(); err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	return strict.Decode(data, v)
}

// keys finds a key that stands twice in an object. encoding/json matches keys
// without regard to case and lets the last one win, so keys that fold to the
// same are the same.
type keys struct {
	few  [8][]byte
	n    int
	many map[string]bool
}

// add reports whether the key is new.
func (k *keys) add(key []byte) bool {
	if k.n < len(k.few) {
		for _, old := range k.few[:k.n] {
			if bytes.EqualFold(old, key) {
				return false
			}
		}
		k.few[k.n] = key
		k.n++
		return true
	}
	if k.many == nil {
		k.many = map[string]bool{}
		for _, old := range k.few {
			k.many[fold(old)] = true
		}
	}
	f := fold(key)
	isNew := !k.many[f]
	k.many[f] = true
	return isNew
}

// fold is the same for keys that encoding/json takes for the same: not only for
// "s" and "S" but for "\u017f", the long s, as well.
func fold(key []byte) string {
	return strings.Map(func(r rune) rune {
		least := r
		for n := unicode.SimpleFold(r); n != r; n = unicode.SimpleFold(n) {
			least = min(least, n)
		}
		return least
	}, string(key))
}
