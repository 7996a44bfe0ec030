package publish

import (
	"context"
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

const (
	// maxYields is how often one publication gives way to timestamps of others.
	maxYields = 5
	// lookAgain is the pause between two looks for the heartbeat's timestamp.
	lookAgain = 250 * time.Millisecond
	// alarmAfter is how long a snapshot may wait for its timestamp until somebody
	// should look at the heartbeat.
	alarmAfter = 2 * time.Minute
	hintHeart  = "look at the heartbeat function: its log, its schedule, the bucket's notification, and that its key is the timestamp's (modelfleet key status)"
)

// overtaken says that a newer timestamp lies where an older one was to be put.
type overtaken struct {
	key       string
	timestamp []byte
}

// Error says what was found where.
func (o *overtaken) Error() string {
	return fmt.Sprintf("publish %s: somebody else put a newer one there", o.key)
}

// Unwrap makes it a Conflict, with what to do if it is not resolved.
func (o *overtaken) Unwrap() error {
	return fault.Newf(fault.Conflict, "publish", o.key, "somebody else put a newer one there").
		WithHint("only one coordinator may decide for a fleet")
}

// yield makes q what is still to be written next to somebody else's timestamp.
func (p *Publisher) yield(ctx context.Context, q *pending, timestamp []byte, now time.Time) error {
	pub, err := p.repo.Follow(timestamp, now)
	if err != nil {
		return err
	}
	var keep []repository.Write
	for _, w := range q.Writes {
		if !w.Mutable {
			keep = append(keep, w)
		}
	}
	if err := p.fill(q, append(keep, pub.Writes...), pub); err != nil {
		return err
	}
	p.o.Logger.Info("timestamp of a heartbeat taken up", "version", q.Version)
	return p.save(ctx, q)
}

// look takes up a timestamp that a heartbeat put into the bucket; the caller
// holds writing.
func (p *Publisher) look(ctx context.Context, now time.Time) error {
	raw, err := p.get(ctx, trust.MetadataKey("timestamp", 0))
	if fault.Is(err, fault.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	version, ok := p.repo.TimestampVersion(raw)
	if !ok || version <= p.repo.Versions()["timestamp"] {
		return nil
	}
	pub, err := p.repo.Follow(raw, now)
	switch {
	case fault.Is(err, fault.NotFound): // over an older snapshot: ours is not stamped yet
		return nil
	case fault.Is(err, fault.Conflict): // what is there counts, from now on
		if err := p.open(ctx); err != nil {
			return err
		}
		return err
	case err != nil:
		return err
	}
	return p.write(ctx, pub, now)
}

// publishAndWait signs up to the snapshot, unless that was done, and waits for
// the heartbeat to make it visible.
func (p *Publisher) publishAndWait(ctx context.Context, d fleet.Directive, now time.Time) ([]trust.Refusal, error) {
	have, ok, err := p.repo.Directive(d.Group)
	if err != nil {
		return nil, err
	}
	switch {
	case !ok || have.Sequence != d.Sequence:
		pub, err := p.repo.Sign(d, now)
		if err != nil {
			return nil, err
		}
		if err := p.write(ctx, pub, now); err != nil {
			return nil, err
		}
	case p.repo.Stamped(): // before this start
		pub, err := p.repo.Repack(now)
		if err != nil {
			return nil, err
		}
		return pub.Refused, p.write(ctx, pub, now)
	case p.awaiting.IsZero():
		p.awaiting = now
	}
	wait := p.o.Await
	if wait <= 0 {
		wait = 10 * time.Second
	}
	until := time.NewTimer(wait)
	defer until.Stop()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		if err := p.look(ctx, now); err != nil {
			return nil, err
		}
		if pack, ok := p.Pack(d.Group); ok && pack.Sequence == d.Sequence {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-until.C:
			return nil, fault.Newf(fault.Transient, "publish", string(d.Group), "no heartbeat has stamped the directive %d within %s", d.Sequence, wait).WithHint(hintHeart)
		case <-tick.C:
		}
	}
}

// overdue says that a snapshot has waited too long for its timestamp.
func (p *Publisher) overdue(now time.Time) error {
	if p.awaiting.IsZero() || now.Sub(p.awaiting) < alarmAfter {
		return nil
	}
	return fault.Newf(fault.Transient, "publish", "snapshot", "no heartbeat has stamped it since %s", p.awaiting.UTC().Format(time.RFC3339)).WithHint(hintHeart)
}
