package play

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/infra/bench/weights"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// hall is a policy for all devices of one site at once.
const hall = `population: {selector: "site=%s"}
stages:
  - {name: hall, percent: 100, soak: 1s}
burnIn: 500ms
memberSoak: 1s
stageDeadline: 60s
onInconclusive: continue
`

// encoder is a model of 3.9 million weights, nearly all of them an embedding.
func encoder() weights.Settings {
	return weights.Settings{Vocab: 60000, Width: 64, Context: 12, Hidden: []int{128}, Classes: 16, Batch: 16, Steps: 150, Rate: 3e-4, Seed: 7}
}

// trainEncoder trains the larger model and a fine-tune of it, and adds each to
// a copy of v2's folder: v6 and v7.
func (w *world) trainEncoder(ctx context.Context) error {
	base, tuned, err := weights.Tune(ctx, encoder(), weights.Tune200)
	if err != nil {
		return fmt.Errorf("train the larger model: %w", err)
	}
	for version, m := range map[string]weights.Model{"v6": base, "v7": tuned} {
		dir := filepath.Join(w.dir, "releases", version)
		if err := os.CopyFS(dir, os.DirFS(w.releases["v2"].Dir)); err != nil {
			return fmt.Errorf("copy v2: %w", err)
		}
		body, err := weights.BF16.Encode(m)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "encoder.safetensors"), body, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", version, err)
		}
	}
	return nil
}

// actSite brings a larger model to all devices of one site, and then its
// fine-tune.
func (w *world) actSite(ctx context.Context) (string, error) {
	select {
	case err := <-w.trainedEncoder:
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
	site := sites[len(sites)-1]
	policy, err := w.policy("hall", fmt.Sprintf(hall, site))
	if err != nil {
		return "", err
	}
	had, before, err := w.took(ctx, site, time.Now())
	if err != nil {
		return "", err
	}
	var sent [2]float64 // copies that the bucket sent
	for i, version := range []string{"6", "7"} {
		if err := w.publish(ctx, filepath.Join(w.dir, "releases", "v"+version), version+".0.0"); err != nil {
			return "", err
		}
		r, err := w.start(ctx, version+".0.0", policy)
		if err != nil {
			return "", err
		}
		if r, err = w.follow(ctx, r.ID, proctest.Patience, "Succeeded", "RolledBack", "Paused"); err != nil {
			return "", err
		}
		if r.State != "Succeeded" {
			return "", fault.Newf(fault.Internal, "bring a larger model to "+site, r.Release.Ref(), "the rollout is %s: %s", words(r.State), r.Reason)
		}
		have, after, err := w.took(ctx, site, r.Ended) // all had installed it, and served it for its soak
		if err != nil {
			return "", err
		}
		sent[i] = float64(after-before) / float64(r.Release.Variants[0].Size)
		w.n.say("%d devices: %s; the bucket sent %s", r.EverExposed, have.Minus(had).Text(console.Bytes), console.Bytes(after-before))
		had, before = have, after
	}
	w.n.figure("large model for a site: copies out of the bucket", sent[0], "copies")
	w.n.figure("its fine-tune for the site: copies out of the bucket", sent[1], "copies")
	return fmt.Sprintf("for all devices of %s together the bucket sent %.2f copies of the model, and %.2f for its fine-tune", site, sent[0], sent[1]), nil
}

// took is what the devices of the site fetched since their agents started, what
// they fetched for each other too. Only rows that are newer than since count.
func (w *world) took(ctx context.Context, site string, since time.Time) (from api.Sources, wire int64, err error) {
	err = proctest.Until(ctx, proctest.Patience, "every device of "+site+" reports", func() (bool, error) {
		members, err := w.members(ctx)
		if err != nil {
			return false, err
		}
		from, wire = api.Sources{}, 0
		for _, m := range members {
			switch d := m.Delivery; {
			case m.Facts.Labels["site"] != site:
			case m.Seen.Before(since):
				return false, fmt.Errorf("%s reported at %s", m.Facts.ID, m.Seen)
			case d != nil:
				from, wire = from.Plus(d.From), wire+d.Wire
			}
		}
		return true, nil
	})
	return from, wire, err
}
