// Package web is the coordinator's dashboard: the fleet, its rollouts with the
// evidence for each verdict, one page a member, the releases and the audit log.
//
// Pages are rendered on the server from pkg/api types, charts included, so they
// work without JavaScript, print well and can be tested as text; a few lines of
// script only refresh what is on the screen when the coordinator says that
// something happened. Nothing is loaded from elsewhere and the content security
// policy forbids it. A person signs in with an operator token, which a sealed
// cookie then carries: every request is authenticated by the coordinator anew,
// so a withdrawn token is out at once and a restart signs nobody out.
//
//	mux.Handle("/", web.New(web.Options{Source: service, Key: key, Logger: log}))
package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// FleetReader tells of members and what they run.
type FleetReader interface {
	Fleet(ctx context.Context) (api.FleetInfo, error)
	// Health is what runs out, or is wrong, with the fleet's keys and metadata.
	Health(ctx context.Context) (api.Health, error)
	// Members are those the selector matches, by id.
	Members(ctx context.Context, sel fleet.Selector) ([]api.MemberInfo, error)
	Explain(ctx context.Context, id fleet.MemberID) (api.Explanation, error)
}

// RolloutReader tells of rollouts and releases.
type RolloutReader interface {
	// Rollouts are all of them, newest first; History may be left out.
	Rollouts(ctx context.Context) ([]api.RolloutInfo, error)
	Rollout(ctx context.Context, id fleet.RolloutID) (api.RolloutInfo, error)
	Releases(ctx context.Context) ([]api.ReleaseInfo, error)
	// Audit is at most limit entries with an index above after, oldest first.
	Audit(ctx context.Context, after uint64, limit int) ([]api.AuditEntry, error)
}

// Desk is what a signed-in operator may do and hear.
type Desk interface {
	// Authenticate says whose token it is; an unknown one is fault.Denied.
	Authenticate(ctx context.Context, token string) (api.OperatorToken, error)
	// Command tells a rollout something on an operator's behalf. It checks
	// the role itself.
	Command(ctx context.Context, by api.OperatorToken, id fleet.RolloutID, cmd api.Command, req api.CommandRequest) error
	// Subscribe delivers what happens until ctx ends; a slow reader loses
	// events rather than holding the coordinator up. The channel is closed
	// when ctx ends.
	Subscribe(ctx context.Context) <-chan api.Event
}

// Source is everything the dashboard reads and does. The coordinator's service
// is one; the tests' recorded fleet is another.
type Source interface {
	FleetReader
	RolloutReader
	Desk
}

// Options are what a dashboard needs.
type Options struct {
	Source Source
	// Key seals the session cookie; any secret of 32 bytes that outlives the
	// process. Without one a restart signs everybody out.
	Key []byte
	// Session is how long a sign-in lasts; 12 hours by default.
	Session time.Duration
	// Silent is how long a device may be quiet before pages call it silent: three
	// report periods. 3 minutes by default.
	Silent time.Duration
	// Logger takes errors that a page could only say in general; required.
	Logger *slog.Logger
	// Now is the clock that ages are told by; time.Now by default.
	Now func() time.Time
}

// New returns the dashboard: a handler for everything below "/" that the API
// does not take.
func New(o Options) (http.Handler, error) { return newSite(o) }
