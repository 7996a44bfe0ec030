package coordinator

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// nextKey looks for the key that a new root names: where the fleet's file says, as
// it is now, and among the files of the fleet's folder that are called
// coordinator*.pem and timestamp*.pem. `modelfleet key rotate` puts the next key
// there before root names it, so that the coordinator takes it up by itself. Nil
// when there is none: then signing says which key is missing.
func (h *house) nextKey(ctx context.Context, ids []string) (signature.Signer, error) {
	file, err := api.LoadFleetFile(filepath.Join(h.o.Fleet, api.FleetFileName))
	if err != nil {
		return nil, err
	}
	refs := slices.Concat(file.Keys.Coordinator, file.Keys.Timestamp, keyFiles(h.o.Fleet, "coordinator"), keyFiles(h.o.Fleet, "timestamp"))
	for _, ref := range refs {
		if ref == NoKey {
			continue
		}
		key, err := keyref.Open(ctx, ref, keyref.Options{})
		if err != nil {
			h.log.Warn("a key cannot be opened", "key", ref, "err", err)
			continue
		}
		id, err := repository.KeyID(key.Public())
		if err != nil {
			return nil, fault.New(fault.Internal, "look for keys", ref, err)
		}
		if slices.Contains(ids, id) {
			h.log.Info("signing with the key that root names now", "key", ref, "id", id)
			return key, nil
		}
	}
	return nil, nil
}

// keyFiles is a role's key files in a fleet's folder, sorted.
func keyFiles(folder, role string) []string {
	files, err := filepath.Glob(filepath.Join(folder, "keys", role+"*.pem"))
	if err != nil {
		return nil // the folder's own name is a bad pattern: then only named files are used
	}
	return files
}

// first is the first of refs, or "".
func first(refs []string) string {
	if len(refs) == 0 {
		return ""
	}
	return refs[0]
}
