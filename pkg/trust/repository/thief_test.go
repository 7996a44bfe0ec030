package repository_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// runAhead puts the last of all timestamps into the bucket, over a snapshot of that
// version, as a thief of the timestamp's key can.
func runAhead(t *testing.T, f *trusttest.Fleet, snapshot int64) {
	t.Helper()
	raw, err := f.Bucket.Get(t.Context(), trust.MetadataKey(metadata.TIMESTAMP, 0))
	if err != nil {
		t.Fatal(err)
	}
	m, err := metadata.Timestamp().FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	m.Signed.Version = math.MaxInt64
	m.Signed.Meta["snapshot.json"].Version = snapshot
	m.ClearSignatures()
	if _, err := m.Sign(f.Timestamp); err != nil {
		t.Fatal(err)
	}
	if raw, err = m.ToBytes(false); err != nil {
		t.Fatal(err)
	}
	f.Bucket.Overwrite(trust.MetadataKey(metadata.TIMESTAMP, 0), raw)
}

// rotates has root give the timestamp to another key.
func rotates(t *testing.T, f *trusttest.Fleet) {
	t.Helper()
	stamp := trusttest.Key(t)
	root, ok, err := repository.NextRoot(f.Bucket.Newest(t, metadata.ROOT), repository.RootChange{Timestamp: []crypto.PublicKey{stamp.Public()}},
		f.Now, repository.Lifetimes{}, f.Root)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	f.Timestamp = stamp
	f.Bucket.Overwrite(trust.MetadataKey(metadata.ROOT, 2), root)
}

// What a thief of the timestamp's key put into the bucket is worth nothing once
// root has taken the key out: not to a coordinator that starts then, and not to
// one that ran all the time.
func TestAStolenTimestampIsWorthNothingAfterItsRotation(t *testing.T) {
	t.Parallel()
	for name, snapshot := range map[string]int64{"over the newest snapshot": 1, "over none that there is": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := trusttest.New(t, nil)
			r := f.Release("detector", "1.0.0")
			_, st, err := trust.Verify(f.Direct(r), f.State(), f.Member(), f.Now)
			if err != nil {
				t.Fatal(err)
			}
			running := f.Repo
			runAhead(t, f, snapshot)
			stolen, err := f.Bucket.Get(t.Context(), trust.MetadataKey(metadata.TIMESTAMP, 0))
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := running.TimestampVersion(stolen); !ok {
				t.Fatal("the thief has no key")
			}
			rotates(t, f)
			if _, err := running.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if v, ok := running.TimestampVersion(stolen); ok {
				t.Errorf("version %d of a timestamp counts whose key was taken out", v)
			}
			f.Repo = f.Open(f.Genesis.Root) // a restart
			if es, err := f.Repo.Releases(); err != nil || len(es) != 1 {
				t.Errorf("%d releases after the restart, %v", len(es), err)
			}
			got, _, err := trust.Verify(f.Direct(r), st, f.Member(), f.Now)
			if err != nil || got.Directive.Sequence != 2 {
				t.Errorf("directive %d is believed, %v", got.Directive.Sequence, err)
			}
		})
	}
}

// A team's floor is a word about its own models: a thief of one team's key cannot
// set that of another's, which would have members look to the wrong publisher.
func TestAFloorIsForOwnModels(t *testing.T) {
	t.Parallel()
	other := trusttest.Key(t)
	f := trusttest.New(t, func(o *repository.InitOptions) {
		o.Teams = append(o.Teams, repository.Team{Name: "audio", Keys: []crypto.PublicKey{other.Public()}})
	})
	f.Release("detector", "1.0.0")
	d, err := f.Repo.Draft(t.Context(), "audio")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Next(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 9}}, f.Now, other)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(s.Write); err != nil {
		t.Fatal(err)
	}
	_, err = f.Repo.Admit(t.Context(), "audio", f.Now)
	rule(t, err, trust.RuleOwner)
}

// Every member of a group reads the roles of its teams in one pack of limited size:
// a thief of one team's key cannot fill it, so that nothing reaches anybody.
func TestARoleLeavesRoomInThePack(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	junk := make([]byte, trust.MaxPack)
	rand.Read(junk)
	tamper(t, f, func(m *metadata.TargetsType) {
		m.UnrecognizedFields = map[string]any{"x-junk": base64.StdEncoding.EncodeToString(junk)}
	})
	_, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	rule(t, err, trust.RuleSize)
	if _, _, err := trust.Verify(f.Direct(r), f.State(), f.Member(), f.Now); err != nil {
		t.Error(err)
	}
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Next(repository.Change{Reason: strings.Repeat("because ", 1<<17)}, f.Now, f.Publisher)
	rule(t, err, trust.RuleSize)
}

// Whoever may write to the bucket puts junk where a team's, or the policy's, next
// versions belong, more of it than anybody counts: the team publishes past it, and
// so do the keepers of the policy.
func TestJunkInPlaceOfTheNextVersionsStopsNobody(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	first := f.Bucket.Newest(t, metadata.TARGETS)
	f.Direct(f.Release("detector", "1.0.0"))
	const many = 300
	junk := [][]byte{[]byte("junk"), []byte(`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`)} // go-tuf panics on the second
	for v := range int64(many) {
		f.Bucket.Overwrite(trust.MetadataKey("pub-vision", 2+v), junk[v%2])
		f.Bucket.Overwrite(trust.MetadataKey(metadata.TARGETS, 2+v), junk[v%2])
	}
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	rule(t, err, trust.RuleFormat)
	if n := len(a.Ignored); n == 0 || n > 16 || !strings.Contains(fault.Hint(a.Ignored[0]), trust.MetadataKey("pub-vision", 2)) {
		t.Errorf("%d named, the first: %v", n, a.Ignored[:min(n, 1)])
	}
	f.Release("detector", "2.0.0")
	m, err := metadata.Targets().FromBytes(first)
	if err != nil {
		t.Fatal(err)
	}
	m.Signed.Version = many + 1
	policy, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	writes, err := repository.NextPolicy(policy, repository.PolicyChange{}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*repository.Repository{f.Repo, f.Open(f.Genesis.Root)} {
		if _, err := r.Reload(t.Context()); err != nil || r.Versions()[metadata.TARGETS] != many+2 {
			t.Errorf("policy %d, %v", r.Versions()[metadata.TARGETS], err)
		}
	}
}

// thieve has a thief of the coordinator's and the timestamp's keys write the last of
// all snapshots, with what it says of the team, and a timestamp to it.
func thieve(t *testing.T, f *trusttest.Fleet, vision *metadata.MetaFiles) {
	t.Helper()
	get := func(key string) []byte {
		raw, err := f.Bucket.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	ts, err := metadata.Timestamp().FromBytes(get(trust.MetadataKey(metadata.TIMESTAMP, 0)))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := metadata.Snapshot().FromBytes(f.Bucket.Newest(t, metadata.SNAPSHOT))
	if err != nil {
		t.Fatal(err)
	}
	sn.Signed.Version = math.MaxInt64
	sn.Signed.Meta["pub-vision.json"] = vision
	sn.Signed.Meta["fleet.json"] = &metadata.MetaFiles{Version: math.MaxInt64}
	sn.Signed.Meta["targets.json"] = &metadata.MetaFiles{Version: 1 << 40}
	sn.ClearSignatures()
	if _, err := sn.Sign(f.Coordinator); err != nil {
		t.Fatal(err)
	}
	raw, err := sn.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	f.Bucket.Overwrite(trust.MetadataKey(metadata.SNAPSHOT, math.MaxInt64), raw)
	ts.Signed.Version = math.MaxInt64
	ts.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: math.MaxInt64}
	ts.ClearSignatures()
	if _, err := ts.Sign(f.Timestamp); err != nil {
		t.Fatal(err)
	}
	if raw, err = ts.ToBytes(false); err != nil {
		t.Fatal(err)
	}
	f.Bucket.Overwrite(trust.MetadataKey(metadata.TIMESTAMP, 0), raw)
}

// Both keys of the coordinator are stolen and replaced. It starts again, with what it
// saw or with nothing but the bucket, and goes on from before the thief.
func TestAStolenCoordinatorIsGoneOnFromBeforeTheThief(t *testing.T) {
	t.Parallel()
	for name, vision := range map[string]*metadata.MetaFiles{
		"a role that there is none of": {Version: 1 << 40},
		"an older role":                {Version: 1},
	} {
		for _, store := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, store %v", name, store), func(t *testing.T) {
				t.Parallel()
				f := trusttest.New(t, nil)
				f.Release("detector", "1.0.0")
				r := f.Release("detector", "2.0.0")
				_, st, err := trust.Verify(f.Direct(r), f.State(), f.Member(), f.Now)
				if err != nil {
					t.Fatal(err)
				}
				seen := f.Repo.Versions()
				thieve(t, f, vision)

				coord, stamp := trusttest.Key(t), trusttest.Key(t)
				root, ok, err := repository.NextRoot(f.Bucket.Newest(t, metadata.ROOT),
					repository.RootChange{Snapshot: trusttest.Keys(coord), Timestamp: trusttest.Keys(stamp)}, f.Now, repository.Lifetimes{}, f.Root)
				if err != nil || !ok {
					t.Fatal(ok, err)
				}
				policy, err := repository.NextPolicy(f.Bucket.Newest(t, metadata.TARGETS), repository.PolicyChange{Coordinator: coord.Public()}, f.Now, repository.Lifetimes{}, f.Root)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Bucket.Put(append(policy, repository.Write{Key: trust.MetadataKey(metadata.ROOT, 2), Body: root})...); err != nil {
					t.Fatal(err)
				}
				f.Coordinator, f.Timestamp = coord, stamp
				o := repository.Options{Root: f.Genesis.Root, Coordinator: coord, Timestamp: stamp}
				if store {
					o.Seen = seen
				}
				if f.Repo, err = repository.Open(t.Context(), f.Bucket.Get, o); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					got, _, err := trust.Verify(f.Direct(r), st, f.Member(), f.Now)
					if err != nil || got.Expired != "" || len(got.Refused) > 0 {
						t.Errorf("%+v, %v", got.Refused, err)
					}
				}
				want := map[string]int64{"root": 2, "targets": 2, "fleet": 3, "snapshot": 3, "timestamp": 2, "pub-vision": 2}
				if got := f.Repo.Versions(); !maps.Equal(got, want) {
					t.Errorf("versions %v, want %v", got, want)
				}
				f.Repo = f.Open(f.Genesis.Root) // and goes on there
				if es, err := f.Repo.Releases(); err != nil || len(es) != 2 {
					t.Errorf("%d releases after the next start, %v", len(es), err)
				}
			})
		}
	}
}

// Who may write to the bucket cannot put a root of his own before the pinned one.
func TestRootsBeforeThePinnedOneAreVerified(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	rotates(t, f)
	pinned := f.Bucket.Newest(t, metadata.ROOT)
	if _, err := repository.Open(t.Context(), f.Bucket.Get, repository.Options{Root: pinned}); err != nil {
		t.Fatal(err)
	}
	thief := trusttest.New(t, nil)
	for name, raw := range map[string][]byte{"junk": []byte("junk"), "a thief's": thief.Genesis.Root, "a later one": pinned} {
		f.Bucket.Overwrite(trust.MetadataKey(metadata.ROOT, 1), raw)
		_, err := repository.Open(t.Context(), f.Bucket.Get, repository.Options{Root: pinned})
		if trust.RuleOf(err) != trust.RuleRoot {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a team or the keepers signed and somebody else then wrote into, where no
// signature covers it, is no version: the coordinator goes on signing packs that
// members can read.
func TestWhatOthersWriteIntoARoleStopsNobody(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(string) string{
		"a line end":  func(s string) string { return s + "\n" },
		"a key twice": func(s string) string { return strings.Replace(s, "{", `{"x":1,"x":2,`, 1) },
	} {
		f := trusttest.New(t, nil)
		r := f.Release("detector", "1.0.0")
		f.Direct(r)
		tamper(t, f, func(*metadata.TargetsType) {}) // a version that the team signed
		key := trust.MetadataKey("pub-vision", 2)
		raw, err := f.Bucket.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		f.Bucket.Overwrite(key, []byte(write(string(raw))))
		_, err = f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
		rule(t, err, trust.RuleFormat)
		writes, err := repository.NextPolicy(f.Bucket.Newest(t, metadata.TARGETS), repository.PolicyChange{}, f.Now, repository.Lifetimes{}, f.Root)
		if err != nil {
			t.Fatal(err)
		}
		next := writes[len(writes)-1]
		f.Bucket.Overwrite(next.Key, []byte(write(string(next.Body))))
		if _, err := f.Repo.Reload(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for range 2 {
			if _, _, err := trust.Verify(f.Direct(r), f.State(), f.Member(), f.Now); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			f.Repo = f.Open(f.Genesis.Root)
		}
		f.Release("detector", "2.0.0")
	}
}

// An object that is too large to be read stops nobody either, under whatever name of a
// version to come it lies.
func TestWhatIsTooLargeToBeReadIsJunk(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	large := map[string]bool{
		trust.MetadataKey(metadata.ROOT, 2): true, trust.MetadataKey(metadata.TARGETS, 2): true, trust.MetadataKey("pub-vision", 2): true,
	}
	repo, err := repository.Open(t.Context(), func(ctx context.Context, key string) ([]byte, error) {
		if large[key] {
			return nil, fault.New(fault.Exhausted, "read object", key, registry.ErrTooLarge)
		}
		return f.Bucket.Get(ctx, key)
	}, repository.Options{Root: f.Genesis.Root, Coordinator: f.Coordinator, Timestamp: f.Timestamp})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if s := repo.Stray(); s == nil || s.Key != trust.MetadataKey(metadata.ROOT, 2) {
		t.Errorf("nobody hears of it: %+v", s)
	}
	_, err = repo.Admit(t.Context(), trusttest.Team, f.Now)
	rule(t, err, trust.RuleFormat)
}
