package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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
	lock  *os.File
	write func(path string, data []byte, perm fs.FileMode) error // cas.WriteFile
}

// openDisk takes the state folder; a second agent on it is a Conflict.
func openDisk(dir string) (*disk, error) {
	if err := cas.MkdirAll(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, cas.Classify("take state folder", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.New(fault.Conflict, "take state folder", dir, err).
			WithHint("another modelfleet-agent runs on it; give this one its own -state and -socket")
	}
	return &disk{dir: dir, lock: f, write: cas.WriteFile}, nil
}

func (d *disk) close() error { return d.lock.Close() }

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

// load reads the memory. A file that cannot be understood is put aside: found
// reports whether there was one to trust.
func (d *disk) load() (m memory, found bool, err error) {
	m = memory{Schema: memorySchema, Models: map[fleet.ModelName]update.State{}}
	path := d.path("state.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, cas.Classify("read state", path, err)
	}
	var got memory
	err = json.Unmarshal(data, &got)
	if err == nil && got.Schema != memorySchema {
		err = fault.Newf(fault.Invalid, "read state", path, "schema %d, this agent knows %d", got.Schema, memorySchema)
	}
	if err != nil {
		if err := cas.Publish(path, path+".damaged"); err != nil {
			return m, false, err
		}
		return m, false, fault.New(fault.Invalid, "read state", path, err).
			WithHint("it was kept as state.json.damaged; the agent goes on from its slots and the next trust pack")
	}
	if got.Models == nil {
		got.Models = m.Models
	}
	return got, true, nil
}

func (d *disk) save(m memory) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fault.New(fault.Internal, "write state", d.dir, err)
	}
	return d.write(d.path("state.json"), data, 0o600)
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
