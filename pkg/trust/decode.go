package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Decode reads a role's metadata from bytes that anybody may have made, and checks
// no signature. Use it in place of go-tuf's FromBytes, which panics on a target that
// is null, as its VerifyDelegate does on a null key or role: whoever can put an
// object into the bucket would stop whoever reads it. It also refuses what no pack
// can carry, as space around or a key that stands twice: signatures cover neither,
// so that anybody could add it to what others signed.
func Decode[T metadata.Roles](raw []byte) (m *metadata.Metadata[T], err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("go-tuf cannot read it: %v", p)
		}
	}()
	if len(raw) == 0 {
		return nil, errors.New("it is empty, or too large to be read")
	}
	if len(bytes.TrimSpace(raw)) != len(raw) {
		return nil, errors.New("there is space around it")
	}
	if err := oms.DecodeStrict(raw, new(json.RawMessage)); err != nil {
		return nil, err
	}
	m, err = new(metadata.Metadata[T]).FromBytes(raw)
	if err != nil {
		return nil, err
	}
	if err := noNull(&m.Signed); err != nil {
		return nil, err
	}
	return m, nil
}

// noNull refuses null where go-tuf expects a key or a role.
func noNull(signed any) error {
	var keys map[string]*metadata.Key
	switch s := signed.(type) {
	case *metadata.RootType:
		keys = s.Keys
		for name, r := range s.Roles {
			if r == nil {
				return fmt.Errorf("its role %s is null", name)
			}
		}
	case *metadata.TargetsType:
		if s.Delegations != nil {
			keys = s.Delegations.Keys
		}
	}
	for id, k := range keys {
		if k == nil {
			return fmt.Errorf("its key %.12s is null", id)
		}
	}
	return nil
}
