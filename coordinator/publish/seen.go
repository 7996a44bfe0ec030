package publish

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// keepSeen ends a publication in the store. What stays there of it is how far the
// repository was, so that a bucket that somebody put back is not gone on from.
func (p *Publisher) keepSeen(ctx context.Context) error {
	raw, err := json.Marshal(pending{Seen: p.seen})
	if err != nil {
		return fault.New(fault.Internal, "publish", "", err)
	}
	return p.o.Store.SavePublication(ctx, raw)
}

// checkSeen refuses a bucket that is older than what this coordinator saw there:
// members would refuse what is signed on top of it, and a publisher that went on
// from it would take back what was published since. A root that gives timestamp or
// snapshot to other keys begins anew, as it does for members.
func (p *Publisher) checkSeen() error {
	have := p.repo.Versions()
	for _, role := range []string{metadata.ROOT, metadata.TARGETS} {
		p.untold = p.untold || len(p.seen) > 0 && have[role] != p.seen[role]
	}
	if len(p.seen) > 0 && p.repo.OnlineKeysChanged(p.seen[metadata.ROOT]) {
		p.seen = have
		return nil
	}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if have[role] < p.seen[role] {
			return trust.Violated(trust.RuleVersion, "open trust repository", role,
				fmt.Errorf("the bucket holds version %d, and version %d was there before: somebody put it back", have[role], p.seen[role])).
				WithHint("put the newer objects back and find who writes to the bucket; if they are lost, have root name new keys for coordinator and timestamp, which begins anew")
		}
	}
	p.seen = have
	return nil
}
