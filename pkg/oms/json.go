package oms

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// maxDepth bounds how deep strict JSON may nest.
const maxDepth = 32

// DecodeStrict reads one JSON value into v, as this package reads everything it
// is given. It refuses what encoding/json lets
// pass and two readers may understand differently: duplicate keys, keys that
// differ by case only, unknown fields, and anything after the value.
func DecodeStrict(data []byte, v any) error {
	if err := checkKeys(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// checkKeys walks the tokens of one JSON value. encoding/json matches keys
// without regard to case and lets the last one win, so a key is refused when
// its folded form was already there.
func checkKeys(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	switch tok {
	case json.Delim('['):
		for dec.More() {
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			key, _ := tok.(string)
			if fold := strings.Map(foldRune, key); seen[fold] {
				return fmt.Errorf("key %q twice, or twice but for case", key)
			} else {
				seen[fold] = true
			}
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

// foldRune is the least of the runes that encoding/json takes for the same
// letter: not only of "s" and "S" but of "\u017f", the long s, as well.
func foldRune(r rune) rune {
	least := r
	for n := unicode.SimpleFold(r); n != r; n = unicode.SimpleFold(n) {
		least = min(least, n)
	}
	return least
}
