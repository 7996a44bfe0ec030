package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/relay"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// reporter turns what was recorded into signed rows, in time and at once when
// something happened.
type reporter struct {
	log    *slog.Logger
	rec    *telemetry.Recorder
	key    *signer.Signer
	fleet  string
	relay  *relay.Relay
	idle   time.Duration
	busy   time.Duration
	look   func(context.Context) // brings the recorder up to date
	status func() local.Listing
}

// company is how long an urgent row waits for what else changes with it.
const company = 50 * time.Millisecond

func (r *reporter) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.rec.Urgent():
			timer.Reset(company)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		}
		r.look(ctx)
		if err := r.send(time.Now()); err != nil {
			r.log.Error("row not sent", "err", err)
		}
		timer.Reset(r.period())
	}
}

func (r *reporter) send(now time.Time) error {
	msgs, _, err := r.rec.Report(now, r.fleet, r.key)
	if err != nil {
		return err
	}
	return r.relay.Send(msgs...)
}

// period is how long until the next row when nothing happens: short while a
// rollout concerns the device.
func (r *reporter) period() time.Duration {
	for _, m := range r.status().Models {
		if m.Phase.InProgress() || m.Arm != fleet.NoArm.String() {
			return r.busy
		}
	}
	return r.idle
}
