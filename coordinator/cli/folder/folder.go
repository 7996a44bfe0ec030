// Package folder is a fleet's folder on the desk of whoever keeps its keys:
//
//	DIR/fleet.json              which fleet, which bucket, and the digest of its root
//	DIR/keys/root.pem           signs root and policy: take it offline
//	DIR/keys/publisher-TEAM.pem signs a team's releases
//	DIR/keys/coordinator.pem    signs directives; the coordinator needs this one,
//	DIR/keys/timestamp.pem      this one
//	DIR/keys/device-ca.pem      and this one, with DIR/device-ca.crt
//	DIR/repository/...          what was put into the bucket first, kept to put it there again
//
// [Init] makes it, once; [Open] reads it. No file holds a secret but those in keys.
package folder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Folder is an opened fleet folder.
type Folder struct {
	Dir string
	api.FleetFile
}

// folderScheme marks a bucket that is a folder.
const folderScheme = "dir:"

// Open reads the folder at path.
func Open(path string) (Folder, error) {
	file, err := api.LoadFleetFile(filepath.Join(path, api.FleetFileName))
	if fault.Is(err, fault.NotFound) {
		err = fault.Newf(fault.NotFound, "open fleet folder", path, "there is no %s in it", api.FleetFileName).
			WithHint("make a fleet with `modelfleet init --dir %s --name NAME --team TEAM --bucket BUCKET`, or name its folder with --dir", path)
	}
	return Folder{Dir: path, FleetFile: file}, err
}

// OpenBucket opens the fleet's bucket and asks whether it is there.
func OpenBucket(ctx context.Context, f api.FleetFile) (registry.Store, error) {
	if path, ok := strings.CutPrefix(f.Bucket, folderScheme); ok {
		store, err := dir.Open(path)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "open bucket", f.Bucket, err).WithHint("make the folder first")
		}
		return store, nil
	}
	store, err := s3.Open(ctx, s3.Options{Bucket: f.Bucket, Prefix: f.Prefix, Region: f.Region, Endpoint: f.Endpoint})
	if err != nil {
		return nil, err
	}
	if err := store.Check(ctx); err != nil {
		return nil, unreachable(f, err)
	}
	return store, nil
}

// unreachable says why a bucket cannot be used in a line, without the SDK's
// account of its attempts, and what to do.
func unreachable(f api.FleetFile, err error) error {
	e := fault.New(fault.KindOf(err), "open bucket", f.Bucket, err)
	if refused, ok := errors.AsType[*net.OpError](err); ok {
		e.Err = refused
	}
	switch hint := fault.Hint(err); {
	case hint != "":
		e.Hint = hint
	case e.Kind == fault.Transient:
		e.Hint = "can this machine reach " + cmp.Or(f.Endpoint, "AWS S3") + "?"
	case e.Kind == fault.Denied:
		e.Hint = "these AWS credentials may not use the bucket: whose are they, and what does its policy say?"
	}
	return e
}

// Get reads whole objects of a store, as package repository wants it.
func Get(store registry.Reader) repository.Get {
	return func(ctx context.Context, key string) ([]byte, error) {
		body, _, err := store.Get(ctx, key, "")
		return body, err
	}
}

// Repository opens the fleet's TUF repository to read it, beginning at the root
// that the folder pins.
func (f Folder) Repository(ctx context.Context, store registry.Reader) (*repository.Repository, error) {
	root, err := f.ReadRoot(ctx, store)
	if err != nil {
		return nil, err
	}
	return repository.Open(ctx, Get(store), repository.Options{Root: root})
}

// ReadRoot is the first root.json from the bucket, if it is the pinned one.
func (f Folder) ReadRoot(ctx context.Context, store registry.Reader) ([]byte, error) {
	key := trust.MetadataKey("root", 1)
	root, _, err := store.Get(ctx, key, "")
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, fault.New(fault.NotFound, "read root of fleet", f.Name, err).
			WithHint("run `modelfleet init` again: it puts back what is missing")
	case err != nil:
		return nil, err
	}
	if got := fleet.DigestOf(root); got != f.Root {
		return nil, fault.Newf(fault.Untrusted, "read root of fleet", f.Name, "the bucket's %s has digest %s, the pinned one is %s", key, got.Short(), f.Root.Short()).
			WithHint("the bucket belongs to another fleet, or somebody replaced its root: do not go on")
	}
	return root, nil
}

// KeyPath is where a key of the folder lies: "root", "coordinator", "publisher-vision".
func (f Folder) KeyPath(name string) string { return filepath.Join(f.Dir, "keys", name+".pem") }

// Publisher loads a team's key. Without a team it is the only publisher key
// there is.
func (f Folder) Publisher(ctx context.Context, team fleet.Team) (fleet.Team, *signer.Signer, error) {
	if team == "" {
		teams, err := f.teams()
		if err != nil {
			return "", nil, err
		}
		if len(teams) == 0 {
			return "", nil, fault.Newf(fault.NotFound, "choose publisher key", f.Dir, "there is none in its keys folder").
				WithHint("publish where the team's key is, or copy it to %s", f.KeyPath("publisher-TEAM"))
		}
		if len(teams) != 1 {
			return "", nil, fault.Newf(fault.Invalid, "choose publisher key", f.Dir, "there are %d: %s", len(teams), strings.Join(teams, ", ")).
				WithHint("say which with --team")
		}
		team = fleet.Team(teams[0])
	}
	s, err := signer.Load(ctx, f.KeyPath("publisher-"+string(team)))
	return team, s, err
}

// teams are those whose publisher keys are in the folder.
func (f Folder) teams() ([]string, error) {
	paths, err := filepath.Glob(f.KeyPath("publisher-*"))
	if err != nil {
		return nil, fault.New(fault.Invalid, "list publisher keys", f.Dir, err)
	}
	var teams []string
	for _, p := range paths {
		teams = append(teams, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "publisher-"), ".pem"))
	}
	slices.Sort(teams)
	return teams, nil
}

// Put does writes in their order. An immutable object that is there already with
// the same bytes is left as it is; with others it is a Conflict.
func Put(ctx context.Context, store registry.Store, writes []repository.Write) (created int, err error) {
	for _, w := range writes {
		if w.Mutable {
			return created, fault.Newf(fault.Internal, "write", w.Key, "only the coordinator replaces objects")
		}
		made, err := store.Create(ctx, w.Key, registry.BodyOf(w.Body))
		if err != nil {
			return created, fmt.Errorf("write %s: %w", w.Key, err)
		}
		if made {
			created++
		}
	}
	return created, nil
}
