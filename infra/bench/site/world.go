package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/netlimit"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	model = "detector"
	// wan is the site's link to the bucket.
	wan = 100 * netlimit.Mbit
)

// policy gives a release to everybody at once: there is nothing to compare.
const policy = `stages:
  - {name: all, percent: 100, soak: 1s}
burnIn: 500ms
memberSoak: 500ms
stageDeadline: 30m
onInconclusive: continue
`

// world is a fleet of one site: an S3 server, a coordinator and agents, each a
// process of its own. The bucket is reached through the site's link only.
type world struct {
	dir    string
	bins   string
	s3     *devs3.Process
	link   *netlimit.Link
	coord  *exec.Cmd
	client *api.Client
	agents []*member
}

// member is one agent.
type member struct {
	state string
	cmd   *exec.Cmd
	dead  bool
}

// newWorld brings a site of n members up, that have nothing yet.
func newWorld(ctx context.Context, bins, dir string, n int, sharing bool) (w *world, err error) {
	w = &world{dir: dir, bins: bins}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	if w.s3, err = devs3.Start(ctx, w.bin("devs3"), devs3.Options{Dir: filepath.Join(dir, "s3")}); err != nil {
		return w, err
	}
	if w.link, err = netlimit.New(strings.TrimPrefix(w.s3.Endpoint, "http://"), netlimit.Options{Down: wan}); err != nil {
		return w, err
	}
	_, err = w.cli(ctx, "init", "--dir", w.path("fleet"), "--name", "bench", "--team", "bench",
		"--bucket", w.s3.Bucket, "--s3-endpoint", "http://"+w.link.Addr(), "--region", w.s3.Region)
	if err != nil {
		return w, err
	}
	if err := os.WriteFile(w.path("policy.yaml"), []byte(policy), 0o644); err != nil {
		return w, err
	}
	if err := w.startCoordinator(ctx); err != nil {
		return w, err
	}
	return w, w.join(ctx, n, sharing)
}

func (w *world) bin(name string) string  { return filepath.Join(w.bins, name) }
func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// cli runs the operator's command.
func (w *world) cli(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.bin("modelfleet"), args...)
	cmd.Env = append(w.env(), "MODELFLEET_CONTEXT="+w.path("coordinator/admin.context.json"), "MODELFLEET_DIR="+w.path("fleet"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("modelfleet %s: %w: %s", args[0], err, errs.Bytes())
	}
	return out.Bytes(), nil
}

func (w *world) env() []string {
	return append(os.Environ(), "AWS_ACCESS_KEY_ID="+w.s3.AccessKey, "AWS_SECRET_ACCESS_KEY="+w.s3.SecretKey, "AWS_REGION="+w.s3.Region)
}

// spawn starts a process that goes on, with a log of its own.
func (w *world) spawn(name string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(w.path(name + ".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.env(), log, log
	return cmd, cmd.Start()
}

func (w *world) startCoordinator(ctx context.Context) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		return err
	}
	w.coord, err = w.spawn("coordinator", w.bin("modelfleet-coordinator"), "-fleet", w.path("fleet"), "-data", w.path("coordinator"),
		"-listen", addr, "-url", "https://"+addr, "-tick", "250ms", "-report", "1s")
	if err != nil {
		return err
	}
	return until(ctx, time.Minute, "the coordinator answers", func() error {
		c, err := api.LoadContext(w.path("coordinator/admin.context.json"))
		if err != nil {
			return err
		}
		if w.client, err = c.Client(); err != nil {
			return err
		}
		_, err = w.client.Fleet(ctx)
		return err
	})
}

// join starts the agents and waits until all have reported, and so were in the
// cell for some time.
func (w *world) join(ctx context.Context, n int, sharing bool) error {
	out, err := w.cli(ctx, "token", "create", "--uses", fmt.Sprint(n), "--ttl", "1h", "-o", "json")
	if err != nil {
		return err
	}
	var token api.Token
	if err := json.Unmarshal(out, &token); err != nil {
		return err
	}
	for i := range n {
		id := fmt.Sprintf("cam-%02d", i)
		m := &member{state: w.path(id)}
		args := []string{w.bin("modelfleet-agent"), "-state", m.state, "-join", token.Text, "-id", id, "-labels", "site=hall",
			"-socket", w.path(id + ".sock"), "-gossip-bind", "127.0.0.1:0", "-report", "1s", "-report-busy", "1s", "-soak", "1s", "-retry", "1s"}
		if !sharing {
			args = append(args, "-share", "off")
		}
		if m.cmd, err = w.spawn(id, args...); err != nil {
			return err
		}
		w.agents = append(w.agents, m)
	}
	err = until(ctx, 2*time.Minute, "all members report", func() error {
		all, err := w.client.Members(ctx, fleet.Selector{})
		if err != nil {
			return err
		}
		seen := 0
		for _, m := range all {
			if !m.Seen.IsZero() {
				seen++
			}
		}
		if seen < n {
			return fmt.Errorf("%d of %d do", seen, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return pause(ctx, time.Duration(5+n/5)*time.Second) // the cell finds itself
}

// publish makes a version known. A later version resembles the one before it.
func (w *world) publish(ctx context.Context, version string, generation, mib int) error {
	folder := w.path("model-" + version)
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "weights.bin"), weights(generation, mib), 0o644); err != nil {
		return err
	}
	_, err := w.cli(ctx, "publish", folder, model+"@"+version)
	return err
}

// weights are bfloat16 numbers as a trained layer has them; each generation moves
// a third of them a little.
func weights(generation, mib int) []byte {
	rnd, move := rand.New(rand.NewPCG(1, 1)), rand.New(rand.NewPCG(uint64(generation), 2))
	b := make([]byte, mib<<20)
	for i := 0; i < len(b); i += 2 {
		v := uint16(math.Float32bits(float32(rnd.NormFloat64()*0.02)) >> 16)
		if generation > 1 && move.IntN(3) == 0 {
			v += uint16(move.IntN(3)) - 1
		}
		b[i], b[i+1] = byte(v), byte(v>>8)
	}
	return b
}

// rollOut gives a version to all and measures until the last of those that live
// has it: the bytes that left the bucket, and the time from the first of them.
// Midway, kill members are killed.
func (w *world) rollOut(ctx context.Context, version string, kill int) (run, error) {
	before := w.link.Down()
	had := w.have()
	out, err := w.cli(ctx, "rollout", "start", model+"@"+version, "-f", w.path("policy.yaml"), "-o", "json")
	if err != nil {
		return run{}, err
	}
	var r api.RolloutInfo
	if err := json.Unmarshal(out, &r); err != nil {
		return run{}, err
	}
	var began time.Time
	err = until(ctx, 20*time.Minute, "all members have "+version, func() error {
		if began.IsZero() && w.link.Down()-before > 256<<10 {
			began = time.Now()
		}
		done, total := 0, 0
		for i, n := range w.have() {
			if !w.agents[i].dead {
				total++
				done += min(1, n-had[i])
			}
		}
		if kill > 0 && !began.IsZero() && w.half(version) {
			for _, m := range w.agents[len(w.agents)-kill:] {
				m.dead = true
				if err := m.kill(); err != nil {
					return err
				}
			}
			kill = 0
		}
		if done < total {
			return fmt.Errorf("%d of %d have", done, total)
		}
		return nil
	})
	if err != nil {
		return run{}, err
	}
	got := run{seconds: time.Since(began).Seconds(), bytes: float64(w.link.Down() - before)}
	return got, w.settle(ctx, r.ID)
}

// settle waits until a rollout has ended; with members that died it does not.
func (w *world) settle(ctx context.Context, id fleet.RolloutID) error {
	for _, m := range w.agents {
		if m.dead {
			return nil
		}
	}
	return until(ctx, 2*time.Minute, "the rollout ends", func() error {
		r, err := w.client.Rollout(ctx, id)
		if err == nil && r.State != "Succeeded" {
			err = fmt.Errorf("it is %s: %s", r.State, r.Reason)
		}
		return err
	})
}

// have is how many releases each member has, whole.
func (w *world) have() []int {
	n := make([]int, len(w.agents))
	for i, m := range w.agents {
		es, err := os.ReadDir(filepath.Join(m.state, "store", "releases"))
		if err == nil { // else it has not begun
			n[i] = len(es)
		}
	}
	return n
}

// half reports whether some member has half of a release that it fetches.
func (w *world) half(version string) bool {
	fi, err := os.Stat(filepath.Join(w.path("model-"+version), "weights.bin"))
	if err != nil {
		return false
	}
	for _, m := range w.agents {
		journals, err := filepath.Glob(filepath.Join(m.state, "store", "staging", "*", "journal"))
		if err != nil {
			continue
		}
		for _, j := range journals {
			if ji, err := os.Stat(j); err == nil && ji.Size()/16*(4<<20) >= fi.Size()/2 {
				return true
			}
		}
	}
	return false
}

func (m *member) kill() error {
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = m.cmd.Wait() // it was killed: that it ended badly is meant
	return nil
}

// stop ends all processes.
func (w *world) stop() error {
	for _, m := range w.agents {
		if m.cmd != nil && !m.dead {
			_ = m.cmd.Process.Signal(syscall.SIGTERM) // it is killed below if it does not end
		}
	}
	var errs []error
	for _, m := range w.agents {
		if m.cmd == nil || m.dead {
			continue
		}
		timer := time.AfterFunc(10*time.Second, func() { _ = m.cmd.Process.Kill() })
		_ = m.cmd.Wait() // its log says more than its status
		timer.Stop()
	}
	if w.coord != nil {
		errs = append(errs, (&member{cmd: w.coord}).kill())
	}
	if w.link != nil {
		errs = append(errs, w.link.Close())
	}
	if w.s3 != nil {
		errs = append(errs, w.s3.Stop())
	}
	return errors.Join(errs...)
}

// until looks again and again until cond is nil.
func until(ctx context.Context, limit time.Duration, what string, cond func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Transient, "wait until", what, err)
		case <-tick.C:
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
