package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// memory is what an agent must not forget: the content of state.json.
type memory struct {
	Schema int                              `json:"schema"` // 1
	Epoch  uint64                           `json:"epoch"`  // of this start; grows with each
	Trust  trust.State                      `json:"trust"`
	Told   time.Time                        `json:"told,omitzero"` // how late it is by a coordinator's word
	Models map[fleet.ModelName]update.State `json:"models"`
}

const memorySchema = 1

// disk is the agent's own files. The loop's goroutine alone writes them.
type disk struct {
	dir   string
	lock  *cas.Lock
	write func(path string, data []byte, perm fs.FileMode) error // cas.WriteFile
}

// openDisk takes the state folder; a second agent on it is a Conflict.
func openDisk(dir string) (*disk, error) {
	if err := cas.MkdirAll(dir); err != nil {
		return nil, err
	}
	lock, err := cas.TakeLock(filepath.Join(dir, "lock"))
	if fault.Is(err, fault.Conflict) {
		return nil, fault.New(fault.Conflict, "take state folder", dir, err).
			WithHint("another modelfleet-agent runs on it; give this one its own -state and -socket")
	}
	if err != nil {
		return nil, err
	}
	d := &disk{dir: dir, lock: lock, write: cas.WriteFile}
	for _, folder := range []string{dir, filepath.Join(dir, "identity")} {
		if err := cas.Sweep(folder); err != nil && !fault.Is(err, fault.NotFound) {
			return nil, errors.Join(err, d.close())
		}
	}
	return d, nil
}

// replaced reports that another folder than the one this agent began with lies
// where its state was: a card was taken out and put in again. The old one is not
// coming back to this process; the next one begins with what is there now. While
// nothing is there the agent goes on with what it has in memory.
func (d *disk) replaced() error {
	if ours, err := d.lock.Lies(d.path("lock")); err != nil || ours {
		return nil
	}
	return fault.Newf(fault.Conflict, "keep state", d.dir, "another disk was mounted there").
		WithHint("start the agent again; systemd does")
}

// close gives the folder free.
func (d *disk) close() error { return d.lock.Release() }

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

// The memory is written twice, so that a block of the disk that goes bad costs
// neither quarantines nor what protects from replays.
const (
	stateFile = "state.json"
	stateCopy = "state.json.copy"
)

// load reads the memory: found reports whether there was one to trust. An Invalid
// error beside it says that state.json was damaged and its copy is used.
func (d *disk) load() (m memory, found bool, err error) {
	m, err = d.read(stateFile)
	if err == nil {
		return m, true, nil
	}
	spare, spareErr := d.read(stateCopy)
	switch {
	case spareErr == nil && fault.Is(err, fault.NotFound): // the very first write was cut short
		return spare, true, nil
	case spareErr == nil:
		return spare, true, d.damaged(err, stateFile, "its copy, which is as new, is used")
	case fault.Is(err, fault.NotFound) && fault.Is(spareErr, fault.NotFound):
		return m, false, nil
	case fault.Is(err, fault.Invalid) && !fault.Is(spareErr, fault.Denied):
		return m, false, d.damaged(err, stateFile, "there is no copy either; the agent goes on from its slots and the next trust pack")
	case fault.Is(err, fault.NotFound) && fault.Is(spareErr, fault.Invalid):
		return m, false, d.damaged(spareErr, stateCopy, "the agent goes on from its slots and the next trust pack")
	case fault.Is(err, fault.NotFound):
		err = spareErr
	}
	return m, false, err
}

// damaged puts a file that cannot be understood aside, for people to look at, and
// says so. One that cannot even be read is left to the next write.
func (d *disk) damaged(err error, name, then string) error {
	path, kept := d.path(name), ""
	if fault.Is(err, fault.Invalid) {
		if err := cas.Publish(path, path+".damaged"); err != nil {
			return cas.Classify("put damaged state aside", path, err)
		}
		kept = "it was kept as " + name + ".damaged; "
	}
	return fault.New(fault.Invalid, "read state", path, err).WithHint("%s", kept+then)
}

// read reads one of the two files. What was torn, or has changed since, is Invalid.
func (d *disk) read(name string) (memory, error) {
	none := memory{Schema: memorySchema, Models: map[fleet.ModelName]update.State{}}
	path := d.path(name)
	data, err := os.ReadFile(path)
	if err != nil {
		return none, cas.Classify("read state", path, err)
	}
	m, err := parseMemory(data)
	if err != nil {
		return none, fault.New(fault.Invalid, "parse state", path, err)
	}
	if m.Models == nil {
		m.Models = none.Models
	}
	return m, nil
}

// save returns once both files hold the memory.
func (d *disk) save(m memory) error {
	data, err := m.encode()
	if err != nil {
		return fault.New(fault.Internal, "write state", d.dir, err)
	}
	for _, name := range []string{stateCopy, stateFile} {
		if err := d.write(d.path(name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// encode is one line of JSON and one with its SHA-256.
func (m memory) encode() ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\n%s\n", data, fleet.DigestOf(data)), nil
}

func parseMemory(file []byte) (memory, error) {
	data, rest, _ := bytes.Cut(file, []byte("\n"))
	if sum := fleet.DigestOf(data).String() + "\n"; string(rest) != sum {
		return memory{}, errors.New("it was torn or changed: the second line is not the SHA-256 of the first")
	}
	var m memory
	if err := json.Unmarshal(data, &m); err != nil {
		return memory{}, err
	}
	if m.Schema != memorySchema {
		return memory{}, fmt.Errorf("schema %d, this agent knows %d", m.Schema, memorySchema)
	}
	return m, nil
}

// loadPack reads the newest pack that was believed; nil when there is none.
func (d *disk) loadPack() ([]byte, error) {
	data, err := os.ReadFile(d.path("pack.zst"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, cas.Classify("read pack", d.path("pack.zst"), err)
}

func (d *disk) savePack(pack []byte) error { return d.write(d.path("pack.zst"), pack, 0o600) }

// bootID tells one boot of the device from another; "" where the system has none.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(data)
}
