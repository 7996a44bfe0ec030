package delivery

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// New returns a fetcher.
func New(o Options) (*Fetcher, error) {
	if o.Store == nil || o.Source == nil {
		return nil, fault.Newf(fault.Invalid, "make fetcher", "", "a store and a source must be given")
	}
	return &Fetcher{o: o}, nil
}

// Install brings the release here. It may be called again at any time: what is
// here is hashed again, what is missing or damaged is fetched. progress may be
// nil; it is called by one goroutine at a time and must not block.
func (f *Fetcher) Install(ctx context.Context, w Want, progress func(Progress)) (Result, error) {
	return Result{}, fault.Newf(fault.Internal, "install", w.Key.Short(), "not built yet")
}
