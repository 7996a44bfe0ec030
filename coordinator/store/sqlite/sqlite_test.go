package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/store/sqlite"
	"github.com/modelfleet/modelfleet/coordinator/store/storetest"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func open(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	paths := map[store.Store]string{}
	storetest.Suite(t, func(t *testing.T) store.Store {
		path := filepath.Join(t.TempDir(), "with space %.db")
		s := open(t, path)
		paths[s] = path
		t.Cleanup(func() { s.Close() })
		return s
	}, func(t *testing.T, s store.Store) store.Store {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again := open(t, paths[s])
		t.Cleanup(func() { again.Close() })
		return again
	})
}

func TestAFolderThatIsNotThereIsSaidSo(t *testing.T) {
	_, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "none", "x.db"))
	if !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("got %v, want Invalid with a hint", err)
	}
}
