package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func epoch(n uint64) memory {
	return memory{Schema: memorySchema, Epoch: n, Models: map[fleet.ModelName]update.State{"detector": {Model: "detector"}}}
}

// Whatever happens to one of the two files, what was last written is read; with
// neither, the agent is told that it has none.
func TestTheMemoryIsReadFromEitherFile(t *testing.T) {
	t.Parallel()
	const gone, good, torn = "gone", "good", "torn"
	for _, c := range []struct {
		file, spare string
		found       bool
		kind        fault.Kind // of the error, if any
		err         bool
		aside       string // what is put aside
	}{
		{good, good, true, 0, false, ""},
		{good, gone, true, 0, false, ""},
		{good, torn, true, 0, false, ""},
		{torn, good, true, fault.Invalid, true, stateFile},
		{gone, good, true, 0, false, ""},
		{gone, gone, false, 0, false, ""},
		{torn, gone, false, fault.Invalid, true, stateFile},
		{torn, torn, false, fault.Invalid, true, stateFile},
		{gone, torn, false, fault.Invalid, true, stateCopy},
	} {
		d := &disk{dir: t.TempDir(), write: cas.WriteFile}
		if err := d.save(epoch(7)); err != nil {
			t.Fatal(err)
		}
		for name, state := range map[string]string{stateFile: c.file, stateCopy: c.spare} {
			var err error
			switch state {
			case gone:
				err = os.Remove(d.path(name))
			case torn:
				err = os.Truncate(d.path(name), 40)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		m, found, err := d.load()
		if found != c.found || (err != nil) != c.err || c.err && !fault.Is(err, c.kind) || m.Models == nil {
			t.Errorf("%s and %s: found is %v, error %v", c.file, c.spare, found, err)
		}
		if found && m.Epoch != 7 {
			t.Errorf("%s and %s: epoch %d, want 7", c.file, c.spare, m.Epoch)
		}
		damaged, _ := filepath.Glob(d.path("*.damaged"))
		if c.aside == "" && len(damaged) > 0 || c.aside != "" && (len(damaged) != 1 || damaged[0] != d.path(c.aside+".damaged")) {
			t.Errorf("%s and %s: put aside %v", c.file, c.spare, damaged)
		}
		// And it is whole again with the next write.
		if err := d.save(epoch(8)); err != nil {
			t.Fatal(err)
		}
		if m, found, err := d.load(); err != nil || !found || m.Epoch != 8 {
			t.Errorf("%s and %s: written again, read as %d: %v", c.file, c.spare, m.Epoch, err)
		}
	}
}

// A file that is there and cannot be read is no reason to forget: where the copy
// reads it is used, else the agent does not start.
func TestAMemoryThatCannotBeReadIsNotForgotten(t *testing.T) {
	t.Parallel()
	d := &disk{dir: t.TempDir(), write: cas.WriteFile}
	if err := d.save(epoch(7)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(d.path(stateFile)), os.Mkdir(d.path(stateFile), 0o700)); err != nil {
		t.Fatal(err)
	}
	if m, found, err := d.load(); !found || m.Epoch != 7 || !fault.Is(err, fault.Invalid) {
		t.Errorf("with a copy: epoch %d, %v", m.Epoch, err)
	}
	if err := os.Remove(d.path(stateCopy)); err != nil {
		t.Fatal(err)
	}
	if _, found, err := d.load(); found || err == nil || fault.Is(err, fault.Invalid) {
		t.Errorf("without a copy: %v", err)
	}
}

// A crash between the two writes leaves the old memory or the new one.
func TestACutBetweenTheTwoWritesCostsNothing(t *testing.T) {
	t.Parallel()
	for cut := range 2 {
		d := &disk{dir: t.TempDir(), write: cas.WriteFile}
		if err := d.save(epoch(7)); err != nil {
			t.Fatal(err)
		}
		d.write = func(path string, data []byte, perm os.FileMode) error {
			if cut--; cut < 0 {
				return errors.New("power is gone")
			}
			return cas.WriteFile(path, data, perm)
		}
		if err := d.save(epoch(8)); err == nil {
			t.Error("written although it was cut")
		}
		if m, found, err := d.load(); err != nil || !found || m.Epoch < 7 {
			t.Errorf("read %d: %v", m.Epoch, err)
		}
	}
}
