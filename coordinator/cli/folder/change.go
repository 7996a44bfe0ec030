package folder

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Now is the root and the policy in force, with the files that the policy lists.
func (f Folder) Now(ctx context.Context) (ceremony.Metadata, map[string][]byte, error) {
	store, err := OpenBucket(ctx, f.FleetFile)
	if err != nil {
		return ceremony.Metadata{}, nil, err
	}
	repo, err := f.Repository(ctx, store)
	if err != nil {
		return ceremony.Metadata{}, nil, err
	}
	policy, targets := repo.Policy()
	return ceremony.Metadata{Root: repo.Root(), Policy: policy}, targets, nil
}

const opPublish = "publish ceremony"

// Publish puts a ceremony into the fleet's bucket: whole, signed by enough as the
// newest root there says, and not overtaken by another. Doing it again is harmless.
func (f Folder) Publish(ctx context.Context, c *ceremony.Ceremony) (created int, err error) {
	if c.Fleet() != f.Name {
		return 0, fault.Newf(fault.Conflict, opPublish, c.File(), "it changes fleet %s, %s is the folder of fleet %s", c.Fleet(), f.Dir, f.Name).
			WithHint("name that fleet's folder with --dir")
	}
	writes, err := c.Writes()
	if err != nil {
		return 0, err
	}
	store, err := OpenBucket(ctx, f.FleetFile)
	if err != nil {
		return 0, err
	}
	for _, w := range writes {
		if !strings.HasPrefix(w.Key, "tuf/targets/") {
			if err := unpublished(ctx, store, w); err != nil {
				return 0, err
			}
		}
	}
	// The fleet as it would be, from the pinned root on.
	get := Get(store)
	root, err := f.ReadRoot(ctx, store)
	if err != nil {
		return 0, err
	}
	would, err := repository.Open(ctx, func(ctx context.Context, key string) ([]byte, error) {
		for _, w := range writes {
			if w.Key == key {
				return w.Body, nil
			}
		}
		return get(ctx, key)
	}, repository.Options{Root: root})
	if err != nil {
		return 0, err
	}
	policy, _ := would.Policy()
	if c.Next.Root != nil && !bytes.Equal(would.Root(), c.Next.Root) || c.Next.Policy != nil && !bytes.Equal(policy, c.Next.Policy) {
		return 0, trust.Violated(trust.RuleVersion, opPublish, c.File(), fmt.Errorf("it follows a root or policy that is not the newest in the bucket")).
			WithHint("propose the change anew: `modelfleet key status` shows what is in force")
	}
	return Put(ctx, store, writes)
}

// unpublished refuses a version that somebody else has published.
func unpublished(ctx context.Context, store registry.Reader, w repository.Write) error {
	there, _, err := store.Get(ctx, w.Key, "")
	switch {
	case fault.Is(err, fault.NotFound):
		return nil
	case err != nil:
		return err
	case !bytes.Equal(there, w.Body):
		return fault.New(fault.Conflict, opPublish, w.Key, trust.Violated(trust.RuleVersion, "", "", fmt.Errorf("another one of this version was published meanwhile"))).
			WithHint("if `modelfleet key status` shows this version, the draft is stale: propose the change anew, and have it signed again. If not, the keepers did not sign what lies there: remove it from the bucket, and find who put it there")
	}
	return nil
}

// NextKey makes the key that is to follow the folder's key of that name, in a file
// of its own: NAME-2.pem. One that a ceremony left there and nobody took is used.
func (f Folder) NextKey(ctx context.Context, name string, inUse func(*signer.Signer) bool) (path string, key *signer.Signer, made bool, err error) {
	for n := 2; ; n++ {
		path = f.KeyPath(fmt.Sprintf("%s-%d", name, n))
		key, err = signer.Load(ctx, path)
		switch {
		case fault.Is(err, fault.NotFound):
			key, err = signer.Generate(path)
			return path, key, true, err
		case err != nil:
			return path, nil, false, err
		case !inUse(key):
			return path, key, false, nil
		}
	}
}

// Prefer writes into fleet.json that the coordinator's next key of a role is the
// one that ref names. Until root names it the others are used.
func (f *Folder) Prefer(role, ref string) error {
	refs := map[string]*[]string{
		ceremony.RoleCoordinator: &f.Keys.Coordinator, ceremony.RoleTimestamp: &f.Keys.Timestamp, RoleDeviceCA: &f.Keys.DeviceCA,
	}[role]
	if refs == nil {
		return fault.Newf(fault.Internal, "write fleet file", role, "it has no keys there")
	}
	if !strings.Contains(ref, "://") {
		abs, err := filepath.Abs(ref)
		if err != nil {
			return fault.New(fault.Invalid, "write fleet file", ref, err)
		}
		ref = abs
	}
	next := []string{ref}
	for _, old := range *refs {
		if old != ref {
			next = append(next, old)
		}
	}
	*refs = next
	return f.save()
}

// RoleDeviceCA and RoleAudit are what the policy lists rather than delegates to.
const (
	RoleDeviceCA = "device-ca"
	RoleAudit    = "audit"
)
