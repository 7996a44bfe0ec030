package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// keepProposal is how long a proposal stays that nobody can approve any more: whoever
// was slower still sees what became of it.
const keepProposal = 24 * time.Hour

// tidyUp removes now and then what nobody needs any more from the bucket: partial
// tiles of the audit log, proofs of directives that were replaced, and proposals. What
// cannot be removed stays.
func (h *house) tidyUp(ctx context.Context) error {
	first := time.NewTimer(time.Minute) // members first
	defer first.Stop()
	every := time.NewTicker(audit.SweepEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-first.C:
		case <-every.C:
		}
		h.tidy(ctx, time.Now())
	}
}

func (h *house) tidy(ctx context.Context, now time.Time) {
	bucket, can := h.bucket.(remover)
	if !can {
		return
	}
	tiles, err := h.audit.Sweep(ctx, now)
	proofs, oerr := h.audit.SweepProofs(ctx, h.publisher.AuditKey(), h.publisher.ProofKeys(), now)
	proposals, perr := removeProposals(ctx, bucket, h.publisher.Versions(), now)
	for _, err := range []error{err, oerr, perr} {
		if err != nil && ctx.Err() == nil {
			h.log.Warn("the bucket is not tidied", "err", err, "hint", fault.Hint(err))
		}
	}
	if tiles+proofs+proposals > 0 {
		h.log.Info("the bucket is tidied", "tiles", tiles, "proofs", proofs, "proposals", proposals)
	}
}

// remover is a bucket that objects can be removed from.
type remover interface {
	registry.Store
	registry.Remover
}

// removeProposals removes proposals of publishers' roles that a day ago were what
// nobody can approve any more: of a version that was taken meanwhile, by themselves or
// by another, or expired. versions are those of the roles in force. One that cannot be
// read or removed keeps none of the others.
func removeProposals(ctx context.Context, bucket remover, versions map[string]int64, now time.Time) (removed int, err error) {
	const op = "remove proposals"
	var errs []error
	failed := func(key string, err error, hint string) {
		errs = append(errs, fault.New(fault.KindOf(err), op, key, err).WithHint("%s", hint))
	}
	for o, err := range bucket.List(ctx, repository.Proposals) {
		if err != nil {
			failed(repository.Proposals, err, "")
			break
		}
		role, version, is := repository.ParseProposalKey(o.Key)
		if !is || now.Sub(o.Modified) < keepProposal {
			continue
		}
		if version > versions[role] {
			raw, _, err := bucket.Get(ctx, o.Key, "")
			if err != nil {
				failed(o.Key, err, "look at the object, and remove it if it is nobody's proposal")
				continue
			}
			if expires, is := repository.ProposalExpires(raw); !is || now.Sub(expires) < keepProposal {
				continue
			}
		}
		if err := bucket.Remove(ctx, o.Key); err != nil {
			failed(o.Key, err, "let the coordinator remove objects below audit/tile/, audit/proof/ and proposals/ (s3:DeleteObject)")
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}
