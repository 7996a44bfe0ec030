package repository_test

import (
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// Whoever may write to the bucket, and sign nothing, may put anything under any name:
// whoever reads it refuses it, and goes on.
func FuzzStrangersBytes(f *testing.F) {
	w := trusttest.New(f, nil)
	r := w.Release("detector", "1.0.0")
	w.Direct(r)
	key := map[string]string{"root": trust.MetadataKey("root", 2), "targets": trust.MetadataKey("targets", 2), "vision": trust.MetadataKey("pub-vision", 2)}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, "pub-vision", metadata.SNAPSHOT, trust.RoleFleet} {
		f.Add(w.Bucket.Newest(f, role))
	}
	stamp, err := w.Bucket.Get(f.Context(), trust.MetadataKey(metadata.TIMESTAMP, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stamp)
	f.Add([]byte(`{"signed":{"_type":"targets","targets":{"a":null},"delegations":{"keys":{"a":null},"roles":[]}},"signatures":[]}`))
	f.Add([]byte(`{"signed":{"_type":"targets","targets":{},"delegations":{"keys":{},"succinct_roles":{"bit_length":32,"keyids":[],"threshold":1}}},"signatures":[]}`))
	genesis, begin, member := w.Genesis, w.State(), w.Member()
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, k := range key {
			w.Bucket.Overwrite(k, raw)
		}
		repo, err := repository.Open(t.Context(), w.Bucket.Get, repository.Options{Root: genesis.Root, Coordinator: w.Coordinator, Timestamp: w.Timestamp})
		if err != nil {
			t.Fatal(err)
		}
		_ = repo.Junk(metadata.ROOT, 2, raw)
		_ = repo.Junk(metadata.TARGETS, 2, raw)
		if repo.Newer(raw, stamp) {
			t.Errorf("newer than the fleet's: %q", raw)
		}
		if _, err := repo.Follow(raw, w.Now); err == nil && string(raw) != string(stamp) {
			a, _ := trust.Decode[metadata.TimestampType](raw)
			b, _ := trust.Decode[metadata.TimestampType](stamp)
			if trust.SameTimestamp(a.Signed, b.Signed) != nil {
				t.Errorf("followed: %q", raw)
			}
		}
		_, _ = repository.ProposalExpires(raw)
		_ = repository.SameChange(raw, stamp)
		_, _ = repository.Countersign(raw, w.Root)
		_, _ = repo.Review(t.Context(), trusttest.Team, repository.ProposalKey(trusttest.Team, 2, raw), raw, w.Now)
		if _, err := repo.Draft(t.Context(), trusttest.Team); err != nil {
			t.Errorf("no draft: %v", err)
		}
		if a, err := repo.Admit(t.Context(), trusttest.Team, w.Now); err == nil && a.Version != 1 {
			t.Errorf("version %d was admitted: %q", a.Version, raw)
		}
		if v := repo.Versions(); v["root"] != 1 || v["targets"] != 1 {
			t.Errorf("versions %v by %q", v, raw)
		}
		d := fleet.Directive{Group: fleet.DefaultGroup, Sequence: 2, Issued: w.Now, Models: []fleet.Placement{{Model: "detector", Stable: &r}}}
		pub, err := repo.Sign(d, w.Now.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := trust.Verify(pub.Packs[fleet.DefaultGroup], begin, member, w.Now); err != nil {
			t.Errorf("%v after %q", err, raw)
		}
	})
}
