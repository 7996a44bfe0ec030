package dir_test

import (
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/registry/registrytest"
)

func TestConforms(t *testing.T) {
	t.Parallel()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	registrytest.Suite(t, s)
}

func TestAFolderThatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	_, err := dir.Open(t.TempDir() + "/nothing")
	if !fault.Is(err, fault.NotFound) || fault.Hint(err) == "" {
		t.Fatalf("error is %v", err)
	}
}

// What the folder itself uses is not an object, and no key reaches it.
func TestTheFoldersOwnFilesAreNotObjects(t *testing.T) {
	t.Parallel()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Swap(t.Context(), "timestamp.json", []byte("{}"), ""); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{".lock", "a/.new-1"} {
		if _, err := s.Create(t.Context(), k, registry.BodyOf(nil)); !fault.Is(err, fault.Invalid) {
			t.Fatalf("%s: error is %v", k, err)
		}
	}
	n := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Fatalf("%d objects are listed", n)
	}
}
