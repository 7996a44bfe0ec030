package play

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/infra/demo/train"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// environments is how many Lambda environments score.
const environments = 4

// actFunctions starts a function of four environments and invokes it.
func (w *world) actFunctions(ctx context.Context) (string, error) {
	token, err := cliJSON[api.Token](ctx, w, "token", "create", "--kind", "function", "--uses", "100", "--ttl", "1h", "--label", "app=scorer")
	if err != nil {
		return "", err
	}
	tmp := filepath.Join(w.dir, "lambda")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", tmp, err)
	}
	log, err := newLineLog(filepath.Join(w.logs, "scorer.log"))
	if err != nil {
		return "", err
	}
	w.fn, err = lambdasim.New(lambdasim.Options{
		Command: []string{w.bin("scorer")}, Name: "scorer", TempDir: tmp, MaxEnvironments: environments, Timeout: proctest.Patience, InitTimeout: proctest.Patience,
		Env: []string{"MODELFLEET_TOKEN=" + token.Text, "MODELFLEET_MODEL=" + string(model), "MODELFLEET_REFRESH=1s", "MODELFLEET_REPORT=1s", "MODELFLEET_WINDOW=1s",
			"MODELFLEET_INIT_BUDGET=" + (proctest.Patience / 2).String()},
		Log: log.line,
	})
	if err != nil {
		return "", err
	}
	if err := w.fn.Provision(ctx, environments); err != nil {
		return "", err
	}
	w.n.say("%d environments of functions/scorer, frozen between invocations", environments)
	answers, err := w.invoke(ctx, 30)
	if err != nil {
		return "", err
	}
	w.traffic = w.keepInvoking() // from here on: a function that nobody calls reports nothing
	if err := w.awaitRunning(ctx, proctest.Patience, fleet.Function, ref("1.0.0"), environments); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d invocations answered by %s in %d environments, each reporting to the same coordinator", answers[ref("1.0.0")], ref("1.0.0"), environments), nil
}

// keepInvoking goes on invoking, a few times a second, until the returned
// function is called; it returns the first thing that went wrong.
func (w *world) keepInvoking() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			if _, err := w.invoke(ctx, 1); err != nil && ctx.Err() == nil {
				done <- err
				return
			}
		}
	}()
	return func() error {
		cancel()
		return <-done
	}
}

// actTraffic looks back at the invocations that went on through everything.
func (w *world) actTraffic(ctx context.Context) (string, error) {
	err := w.traffic()
	w.traffic = nil
	if err != nil {
		return "", err
	}
	members, err := w.members(ctx)
	if err != nil {
		return "", err
	}
	var requests, failed uint64
	for _, m := range members {
		if m.Facts.Kind == fleet.Function {
			requests, failed = requests+status(m).Requests, failed+status(m).Errors
		}
	}
	if failed > 0 || requests == 0 {
		return "", fmt.Errorf("%d of %d invocations failed", failed, requests)
	}
	return fmt.Sprintf("%d invocations were reported, none failed, through a bad release and without the coordinator", requests), nil
}

// invoke has each environment score n samples, all at once, and counts the
// answers by the release that gave them.
func (w *world) invoke(ctx context.Context, n int) (map[string]int, error) {
	counts := make(chan string, n*environments)
	g, ctx := errgroup.WithContext(ctx)
	for i := range environments {
		stream := train.NewStream(uint64(9000+i), "cloud")
		g.Go(func() error {
			for range n {
				answer, err := w.invokeOnce(ctx, stream.Next())
				if err != nil {
					return err
				}
				counts <- answer
			}
			return nil
		})
	}
	err := g.Wait()
	close(counts)
	by := map[string]int{}
	for release := range counts {
		by[release]++
	}
	return by, err
}

func (w *world) invokeOnce(ctx context.Context, s train.Sample) (string, error) {
	var truth *bool
	if s.Labelled {
		truth = &s.Faulty
	}
	request, err := json.Marshal(map[string]any{"regime": s.Regime, "features": s.Values, "label": truth})
	if err != nil {
		return "", fmt.Errorf("write request: %w", err)
	}
	resp, err := w.fn.Invoke(ctx, request)
	if err != nil {
		return "", err
	}
	if resp.FunctionError != "" {
		return "", fmt.Errorf("the function answered: %s", resp.Payload)
	}
	var reply struct{ Release string }
	if err := json.Unmarshal(resp.Payload, &reply); err != nil {
		return "", fmt.Errorf("read answer %s: %w", resp.Payload, err)
	}
	return reply.Release, nil
}

// lineLog keeps what the function's processes print.
type lineLog struct {
	mu   sync.Mutex
	file *os.File
}

func newLineLog(path string) (*lineLog, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	return &lineLog{file: f}, nil
}

func (l *lineLog) line(line lambdasim.LogLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.file, "%s %s: %s\n", line.Environment, line.Process, line.Text)
}
