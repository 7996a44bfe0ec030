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

// Published is what a ceremony changed in the bucket.
type Published struct {
	Created  int
	Replaced []string // junk that lay in the way, a line each
}

// Publish puts a ceremony into the fleet's bucket: whole, signed by enough as the
// newest root there says, and not overtaken by another. Doing it again is harmless.
// Junk under the name of a version that it makes is written over: whoever can write
// to the bucket but not sign stops no ceremony.
func (f Folder) Publish(ctx context.Context, c *ceremony.Ceremony) (Published, error) {
	if c.Fleet() != f.Name {
		return Published{}, fault.Newf(fault.Conflict, opPublish, c.File(), "it changes fleet %s, %s is the folder of fleet %s", c.Fleet(), f.Dir, f.Name).
			WithHint("name that fleet's folder with --dir")
	}
	writes, err := c.Writes()
	if err != nil {
		return Published{}, err
	}
	store, err := OpenBucket(ctx, f.FleetFile)
	if err != nil {
		return Published{}, err
	}
	found, err := f.inTheWay(ctx, store, writes)
	if err != nil {
		return Published{}, err
	}
	// The fleet as it would be, from the pinned root on.
	root, err := f.ReadRoot(ctx, store)
	if err != nil {
		return Published{}, err
	}
	would, err := repository.Open(ctx, func(ctx context.Context, key string) ([]byte, error) {
		for _, w := range writes {
			if w.Key == key {
				return w.Body, nil
			}
		}
		return Get(store)(ctx, key)
	}, repository.Options{Root: root})
	if err != nil {
		return Published{}, err
	}
	policy, _ := would.Policy()
	if c.Next.Root != nil && !bytes.Equal(would.Root(), c.Next.Root) || c.Next.Policy != nil && !bytes.Equal(policy, c.Next.Policy) {
		return Published{}, trust.Violated(trust.RuleVersion, opPublish, c.File(), fmt.Errorf("it follows a root or policy that is not the newest in the bucket")).
			WithHint("propose the change anew: `modelfleet key status` shows what is in force")
	}
	var p Published
	for _, w := range writes {
		made := 1
		if j, is := found[w.Key]; is {
			err = f.replace(ctx, store, w, j)
			p.Replaced = append(p.Replaced, fmt.Sprintf("%s was junk, and is written over: %s", w.Key, j.why))
		} else {
			made, err = Put(ctx, store, []repository.Write{w})
		}
		if err != nil {
			return p, err
		}
		p.Created += made
	}
	return p, nil
}

// junk is an object that lies in the way of a ceremony and that nobody believes.
type junk struct{ why, etag string }

// replace writes over junk, if it is still that.
func (f Folder) replace(ctx context.Context, store registry.Store, w repository.Write, j junk) error {
	_, err := store.Swap(ctx, w.Key, w.Body, j.etag)
	if err == nil {
		return nil
	}
	rm := "aws s3 rm s3://" + f.Bucket + "/" + f.Prefix + w.Key
	if path, ok := strings.CutPrefix(f.Bucket, folderScheme); ok {
		rm = "rm " + filepath.Join(path, w.Key)
	}
	return fault.New(fault.KindOf(err), opPublish, w.Key, fmt.Errorf("what lies there is junk (%s), and cannot be written over: %w", j.why, err)).
		WithHint("remove it by `%s`, publish again, and find who put it there", rm)
}

// inTheWay finds the junk under the names of a ceremony's versions. A version that
// its keepers signed, and that says something else, is a Conflict.
func (f Folder) inTheWay(ctx context.Context, store registry.Store, writes []repository.Write) (map[string]junk, error) {
	found, bodies := map[string]junk{}, map[string][]byte{}
	for _, w := range writes {
		if strings.HasPrefix(w.Key, "tuf/targets/") {
			continue // named after its content
		}
		there, etag, err := store.Get(ctx, w.Key, "")
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			return nil, err
		case !bytes.Equal(there, w.Body):
			found[w.Key], bodies[w.Key] = junk{etag: etag}, there
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	root, err := f.ReadRoot(ctx, store)
	if err != nil {
		return nil, err
	}
	// The fleet as it is without them.
	repo, err := repository.Open(ctx, func(ctx context.Context, key string) ([]byte, error) {
		if _, hidden := found[key]; hidden {
			return nil, fault.Newf(fault.NotFound, "read object", key, "it is looked at by itself")
		}
		return Get(store)(ctx, key)
	}, repository.Options{Root: root})
	if err != nil {
		return nil, err
	}
	for key, j := range found {
		var version int64
		var role string
		if _, err := fmt.Sscanf(strings.TrimSuffix(key, ".json"), "tuf/%d.%s", &version, &role); err != nil {
			return nil, fault.New(fault.Internal, opPublish, key, err)
		}
		if j.why = repo.Junk(role, version, bodies[key]); j.why == "" {
			return nil, fault.New(fault.Conflict, opPublish, key, trust.Violated(trust.RuleVersion, "", "", fmt.Errorf("another one of this version was published meanwhile, and its keepers signed it"))).
				WithHint("the draft is stale: propose the change anew, and have it signed again; `modelfleet key status` shows what is in force")
		}
		found[key] = j
	}
	return found, nil
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
