package play

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// Resident is the memory of idle processes, in bytes.
type Resident struct {
	Agents      []int64
	Coordinator int64
}

// Idle brings a fleet up at the pace of production, whose agents run the given
// program, leaves it alone for the time given, and reads how much memory its
// agents and its coordinator keep resident.
func Idle(ctx context.Context, o Options, agent string, calm time.Duration) (Resident, error) {
	w, cleanup, err := newWorld(o, pace{})
	if err != nil {
		return Resident{}, err
	}
	defer cleanup()
	defer w.stop()
	if _, err := w.actStart(ctx); err != nil {
		return Resident{}, err
	}
	if err := w.plan(); err != nil {
		return Resident{}, err
	}
	for _, d := range w.agents {
		if err := d.ownBinary(agent); err != nil {
			return Resident{}, err
		}
	}
	token, err := cliJSON[api.Token](ctx, w, "token", "create", "--uses", fmt.Sprint(len(w.agents)), "--ttl", "1h")
	if err != nil {
		return Resident{}, err
	}
	if err := w.startDevices(ctx, token.Text); err != nil {
		return Resident{}, err
	}
	select {
	case <-time.After(calm):
	case <-ctx.Done():
		return Resident{}, ctx.Err()
	}
	var r Resident
	for _, d := range w.agents {
		n, err := resident(d.agent)
		if err != nil {
			return Resident{}, err
		}
		r.Agents = append(r.Agents, n)
	}
	r.Coordinator, err = resident(w.coord)
	return r, err
}

// ownBinary gives the device's agent a copy of the program: processes of one
// file share its pages, which devices do not. It is synced, since a page that
// waits to be written cannot be given back either.
func (d *device) ownBinary(program string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("copy the agent: %w", err)
	}
	d.binary = filepath.Join(filepath.Dir(d.socket), "agent")
	f, err := os.OpenFile(d.binary, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("copy the agent: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// resident is the process's resident memory in bytes, as Linux counts it.
func resident(p *proctest.Program) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the memory of %s: %w", p.Name, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read the memory of %s: no VmRSS in its status", p.Name)
}
