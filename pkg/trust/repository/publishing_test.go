package repository_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// Publishing is safe to repeat and refuses what admission would refuse.
func TestPublishing(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	first := add(f, "detector", "1.0.0")
	next(t, f, first)
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	if err != nil || len(a.Added) != 1 || a.Added[0].Release.Counter != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err = f.Repo.Admit(t.Context(), trusttest.Team, f.Now); err != nil || len(a.Added) != 0 || a.Version != 1 {
		t.Errorf("admitting again: %+v, %v", a, err)
	}
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil || d.Version != 2 || d.NextCounter("detector") != 2 {
		t.Fatalf("draft of version %d, %v", d.Version, err)
	}
	if s, err := d.Next(first, f.Now, f.Publisher); err != nil || len(s.Added) != 0 {
		t.Errorf("the same release again: %v, %v", s.Added, err)
	}
	other := f.Addition("detector", "1.0.1")
	other.Entry.Release.Version = "1.0.0"
	_, err = d.Next(repository.Change{Add: []repository.Addition{other}}, f.Now, f.Publisher)
	kind(t, err, fault.Conflict)
	_, err = d.Next(add(f, "detector", "2.0.0"), f.Now, trusttest.Key(t))
	rule(t, err, trust.RulePublisher)
	low := f.Addition("detector", "2.0.0")
	low.Entry.Release.Counter = 1
	_, err = d.Next(repository.Change{Add: []repository.Addition{low}}, f.Now, f.Publisher)
	kind(t, err, fault.Invalid)
	theirs := f.Addition("detector", "2.0.0")
	theirs.Entry.Release.Team = "audio"
	_, err = d.Next(repository.Change{Add: []repository.Addition{theirs}}, f.Now, f.Publisher)
	rule(t, err, trust.RulePath)
	_, err = d.Next(repository.Change{Delist: []string{"detector@9"}}, f.Now, f.Publisher)
	kind(t, err, fault.NotFound)
	none := f.Addition("detector", "2.0.0")
	none.Bundles = map[string][]byte{"default": []byte("{}")}
	_, err = d.Next(repository.Change{Add: []repository.Addition{none}}, f.Now, f.Publisher)
	kind(t, err, fault.Invalid)
}

// Two publishers at once: create-if-absent lets one win, and the other's next
// draft has both.
func TestPublishersMeetAtTheBucket(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	const n = 6
	var wg sync.WaitGroup
	for i := range n {
		change := add(f, fleet.ModelName(fmt.Sprint("model-", i)), "1.0.0")
		wg.Go(func() {
			for {
				d, err := f.Repo.Draft(t.Context(), trusttest.Team)
				if err != nil {
					t.Error(err)
					return
				}
				s, err := d.Next(change, f.Now, f.Publisher)
				if err != nil {
					t.Error(err)
					return
				}
				switch err := f.Bucket.Put(s.Write); {
				case err == nil:
					return
				case !fault.Is(err, fault.Conflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	if err != nil || len(a.Added) != n || a.Version != n {
		t.Errorf("admitted %d releases at version %d, %v; want %d", len(a.Added), a.Version, err, n)
	}
}
