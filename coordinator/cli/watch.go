package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// rolloutWatch is `rollout watch`.
type rolloutWatch struct {
	*desk
	exitStatus bool
	every      time.Duration

	stuck    string // who could not download when it was said last
	fetching string // what was said of downloads
	told     time.Time
}

// watchEvery is how often the rollout itself is asked for: events are for people
// and may be lost, the end of a rollout must not be.
const watchEvery = 2 * time.Second

func (d *desk) rolloutWatch() *cobra.Command {
	o := &rolloutWatch{desk: d}
	cmd := &cobra.Command{
		Use: "watch ROLLOUT", Short: "Follow a rollout to its end, one line per event", Args: cobra.ExactArgs(1),
		Long: `Follow a rollout to its end, one line per event. It reconnects if the coordinator is
down for a while. Ctrl-C stops watching, not the rollout.`,
		Example: `  modelfleet rollout watch r7-k2xq
  modelfleet rollout watch r7-k2xq --exit-status && ./promote.sh`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	cmd.Flags().BoolVar(&o.exitStatus, "exit-status", false, "exit with code 4 unless the rollout succeeded")
	cmd.Flags().DurationVar(&o.every, "every", watchEvery, "polling interval, in addition to events")
	return cmd
}

func (o *rolloutWatch) run(ctx context.Context, arg string) error {
	id, err := fleet.ParseRolloutID(arg)
	if err != nil {
		return err
	}
	client, err := o.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan api.Event)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		o.listen(ctx, client, id, events)
	}()
	x, err := o.follow(ctx, client, id, events)
	cancel()
	<-heard
	if err != nil {
		return err
	}
	if o.exitStatus && x.State != "Succeeded" {
		return fault.Newf(fault.Conflict, "watch rollout", arg, "it ended %s: %s", stateText(x.State), x.Reason)
	}
	return nil
}

// follow prints events until the rollout has ended, and how it stands at the
// beginning, at the end, and whenever that changed without an event saying so.
func (o *rolloutWatch) follow(ctx context.Context, client *api.Client, id fleet.RolloutID, events <-chan api.Event) (api.RolloutInfo, error) {
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	said, ticks, away := "", 2, false // ticks since the last event
	for {
		x, err := client.Rollout(ctx, id)
		switch {
		case err == nil:
			away = false
			ended := !x.Ended.IsZero()
			if ended {
				if err := o.drain(events); err != nil {
					return x, err
				}
			}
			if err := o.delivery(x); err != nil {
				return x, err
			}
			if now := summary(x); now != said && (ticks > 1 || ended) {
				said = now
				if err := o.tell(o.now(), now, x); err != nil {
					return x, err
				}
			}
			if ended {
				return x, nil
			}
		case !fault.KindOf(err).Retry():
			return x, err
		case !away:
			away = true
			o.Say("the coordinator does not answer; still trying")
		}
		select {
		case <-ctx.Done():
			return x, ctx.Err()
		case e := <-events:
			ticks = 0
			if err := o.event(e); err != nil {
				return x, err
			}
		case <-tick.C:
			ticks++
		}
	}
}

// deliveryEvery is how often a watch says how far downloads are.
const deliveryEvery = 10 * time.Second

// delivery prints, now and then, how far downloads are, and who cannot download as
// soon as that changes.
func (o *rolloutWatch) delivery(x api.RolloutInfo) error {
	now := o.now()
	stuck := ""
	for _, s := range x.Stuck {
		stuck += fmt.Sprint(s.Members, s.Code, " ")
	}
	var lines []string
	if stuck != o.stuck {
		o.stuck = stuck
		lines = stuckTexts(x.Stuck, now)
	}
	if text := fetchingText(x.Fetching); text != "" && text != o.fetching && now.Sub(o.told) >= deliveryEvery {
		o.fetching, o.told = text, now
		lines = append(lines, text)
	}
	for _, line := range lines {
		if err := o.tell(now, line, x); err != nil {
			return err
		}
	}
	return nil
}

// drain prints the events that are still on their way: the end was seen before
// the news of it.
func (o *rolloutWatch) drain(events <-chan api.Event) error {
	for {
		select {
		case e := <-events:
			if err := o.event(e); err != nil {
				return err
			}
		case <-time.After(200 * time.Millisecond):
			return nil
		}
	}
}

func (o *rolloutWatch) event(e api.Event) error {
	if o.json() {
		return o.JSONLine(e)
	}
	o.Print("%s  %s", e.At.Format("15:04:05"), console.Clean(e.Text))
	return nil
}

// tell prints how the rollout stands now.
func (o *rolloutWatch) tell(now time.Time, text string, x api.RolloutInfo) error {
	if o.json() {
		return o.JSONLine(api.Event{At: now, Kind: "rollout", Subject: string(x.ID), Text: text})
	}
	o.Print("%s  %s", now.Format("15:04:05"), console.Clean(text))
	return nil
}

// summary is how a rollout stands, in a line.
func summary(x api.RolloutInfo) string {
	s := x.Release.Ref() + " " + stateClause(x.State)
	if stage := stageText(x); stage != "" {
		st := x.Stages[x.Stage]
		s += fmt.Sprintf(": stage %s %s, %d of %d members told", stage, stageClause(st.State), st.Exposed, st.Target)
	} else {
		s += fmt.Sprintf(": %d ever ran it, %d run it now; %s", x.EverExposed, x.StillOn, x.Reason)
	}
	return s
}

// listen hands over the rollout's events until ctx ends, across restarts of the
// coordinator.
func (o *rolloutWatch) listen(ctx context.Context, client *api.Client, id fleet.RolloutID, events chan<- api.Event) {
	for n := 1; ctx.Err() == nil; n++ {
		// The error is no news: follow asks for the rollout itself and tells.
		_ = client.Events(ctx, func(e api.Event) error {
			n = 1
			if e.Kind != "rollout" || e.Subject != string(id) {
				return nil
			}
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(api.Jitter(n)):
		}
	}
}
