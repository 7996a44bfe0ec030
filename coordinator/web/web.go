// Package web is the coordinator's dashboard: the fleet, its rollouts with the
// evidence for each verdict, one page a member, the releases and the audit log.
//
// Pages are rendered on the server from pkg/api types, charts included, so they
// work without JavaScript, print well and can be tested as text; a few lines of
// script only refresh what is on the screen when the coordinator says that
// something happened. Nothing is loaded from elsewhere and the content security
// policy forbids it. A person signs in at the fleet's OpenID issuer or with an
// operator token. The cookie then holds a secret that means something to the
// coordinator's store alone: every request is authenticated anew, so a withdrawn
// token or an ended session is out at once, and a restart signs nobody out.
//
//	mux.Handle("/", web.New(web.Options{Source: service, Key: key, Logger: log}))
package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// FleetReader tells an operator of members and what they run, as far as the
// operator's scope goes.
type FleetReader interface {
	Fleet(ctx context.Context, by api.OperatorToken) (api.FleetInfo, error)
	// Health is what runs out, or is wrong, with the fleet's keys and metadata.
	Health(ctx context.Context, by api.OperatorToken) (api.Health, error)
	// Members are those the selector matches, by id.
	Members(ctx context.Context, by api.OperatorToken, sel fleet.Selector) ([]api.MemberInfo, error)
	Explain(ctx context.Context, by api.OperatorToken, id fleet.MemberID) (api.Explanation, error)
	// Pending are the members that wait for approval, oldest first.
	Pending(ctx context.Context, by api.OperatorToken) ([]api.PendingMember, error)
}

// RolloutReader tells an operator of rollouts and releases, likewise.
type RolloutReader interface {
	// Rollouts are all of them, newest first; History may be left out.
	Rollouts(ctx context.Context, by api.OperatorToken) ([]api.RolloutInfo, error)
	Rollout(ctx context.Context, by api.OperatorToken, id fleet.RolloutID) (api.RolloutInfo, error)
	Releases(ctx context.Context, by api.OperatorToken) ([]api.ReleaseInfo, error)
	// Audit is at most limit entries with an index above after, oldest first.
	Audit(ctx context.Context, by api.OperatorToken, after uint64, limit int) ([]api.AuditEntry, error)
	// Splits is the evidence that somebody was shown another history.
	Splits(ctx context.Context, by api.OperatorToken) ([]api.AuditSplit, error)
}

// Desk is what people may do and hear.
type Desk interface {
	// SignIn begins a session of a person whom the issuer named.
	SignIn(ctx context.Context, kind store.SessionKind, p store.Person) (api.OperatorToken, error)
	// SignInByToken begins a session of an operator token's holder; a token that
	// is not known is fault.Denied. The answer's Text is the session's secret.
	SignInByToken(ctx context.Context, token string) (api.OperatorToken, error)
	// Visit says whose session it is; one that is over is fault.Denied. active
	// tells a person at work from a page that refreshes itself.
	Visit(ctx context.Context, session string, active bool) (api.OperatorToken, error)
	// SignOut ends a session; with all, every session of its holder.
	SignOut(ctx context.Context, session string, all bool) error
	// Command tells a rollout something on an operator's behalf. It checks
	// role and scope itself.
	Command(ctx context.Context, by api.OperatorToken, id fleet.RolloutID, cmd api.Command, req api.CommandRequest) error
	// Subscribe delivers what happens in an operator's scope until ctx ends; a
	// slow reader loses events rather than holding the coordinator up. The
	// channel is closed when ctx ends.
	Subscribe(ctx context.Context, by api.OperatorToken) <-chan api.Event
}

// Source is everything the dashboard reads and does. The coordinator's service
// is one; the tests' recorded fleet is another.
type Source interface {
	FleetReader
	RolloutReader
	Desk
}

// Issuer is an OpenID issuer that people sign in at.
type Issuer interface {
	// Host names it on the sign-in page.
	Host() string
	// AuthURL is where a browser begins.
	AuthURL(ctx context.Context, f oidc.Flow) (string, error)
	// Exchange says who came back with a code; who may not in is fault.Denied.
	Exchange(ctx context.Context, f oidc.Flow, code string) (store.Person, error)
}

// Options are what a dashboard needs.
type Options struct {
	Source Source
	// Issuer signs people in through OpenID Connect; nil: by token only.
	Issuer Issuer
	// URL is where people reach the dashboard; the issuer sends them back there.
	// By default it is what the browser asked for.
	URL string
	// Key seals the cookie of a sign-in that is under way; any secret of 32
	// bytes. Without one a restart ends those.
	Key []byte
	// Throttle slows down who guesses; one of its own by default.
	Throttle *throttle.Throttle
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
