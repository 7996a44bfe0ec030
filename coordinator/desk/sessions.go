package desk

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// How long sessions last unless the options say otherwise.
const (
	DefaultSession = 12 * time.Hour
	DefaultIdle    = 2 * time.Hour
)

// maxSessions is how many sessions one person has at most; a new one then ends
// the oldest.
const maxSessions = 32

// SignIn begins a session of a person, for commands or for a browser. Its text
// is shown with each request.
func (d *Desk) SignIn(ctx context.Context, kind store.SessionKind, p store.Person) (api.OperatorToken, error) {
	s := store.Session{Kind: kind, Name: p.Name, Claims: &p.Claims}
	return d.begin(ctx, s, sessionInfo(s, p), cmp.Or(p.Session, d.o.Session), p.Why)
}

// SignInByToken begins a browser's session of the holder of an operator token.
// It ends with the token.
func (d *Desk) SignInByToken(ctx context.Context, token string) (api.OperatorToken, error) {
	o, err := d.operatorByHash(ctx, fleet.DigestOf([]byte(token)))
	if err != nil {
		return api.OperatorToken{}, err
	}
	return d.begin(ctx, store.Session{Kind: store.BrowserSession, Name: o.Name, Token: o.TokenHash}, operatorInfo(o), d.o.Session, "by token")
}

func (d *Desk) begin(ctx context.Context, s store.Session, out api.OperatorToken, life time.Duration, why string) (api.OperatorToken, error) {
	text, hash, err := newSecret(sessionPrefix)
	if err != nil {
		return api.OperatorToken{}, err
	}
	now := d.o.Now().UTC()
	s.Hash, s.Created, s.Seen, s.Expires = hash, now, now, now.Add(life).Truncate(time.Second)
	if err := d.makeRoom(ctx, s, now); err != nil {
		return api.OperatorToken{}, err
	}
	note := audit.Note{At: now, Actor: s.Name, Action: audit.OperatorSignedIn, Subject: s.Name, Reason: why,
		Detail: map[string]any{"for": s.Kind, "role": out.Role, "scope": out.Scope, "as": out.As, "until": s.Expires}}
	if err := d.o.Store.AddSession(ctx, s, note); err != nil {
		return api.OperatorToken{}, err
	}
	d.o.Logger.Info("operator signed in", "operator", s.Name, "role", out.Role, "for", s.Kind, "until", s.Expires)
	out.Created, out.Used, out.Expires = s.Created, s.Seen, s.Expires
	out.Text = text
	return out, nil
}

// makeRoom forgets sessions that are over, and the person's oldest beyond a bound.
func (d *Desk) makeRoom(ctx context.Context, s store.Session, now time.Time) error {
	all, err := d.o.Store.Sessions(ctx)
	if err != nil {
		return err
	}
	var over []fleet.Digest
	var own []store.Session
	for _, x := range all {
		switch {
		case now.After(x.Expires.Add(rememberEnded)):
			over = append(over, x.Hash)
		case x.Name == s.Name:
			own = append(own, x)
		}
	}
	slices.SortFunc(own, func(a, b store.Session) int { return b.Created.Compare(a.Created) })
	for i := maxSessions - 1; i < len(own); i++ {
		over = append(over, own[i].Hash)
	}
	if len(over) == 0 {
		return nil
	}
	return d.o.Store.ForgetSessions(ctx, over)
}

// rememberEnded is how long a session that is over is kept, so that its holder
// hears why, and so that what they approved can be taken back when they lose their
// role only afterwards.
const rememberEnded = 30 * 24 * time.Hour

// Visit says who a browser's session is of. active tells a person at work from a
// page that refreshes itself: only the former keeps an idle session alive.
func (d *Desk) Visit(ctx context.Context, session string, active bool) (api.OperatorToken, error) {
	return d.session(ctx, session, store.BrowserSession, active)
}

func (d *Desk) session(ctx context.Context, text string, kind store.SessionKind, active bool) (api.OperatorToken, error) {
	s, err := d.o.Store.Session(ctx, fleet.DigestOf([]byte(text)))
	if fault.Is(err, fault.NotFound) || err == nil && s.Kind != kind {
		return api.OperatorToken{}, ended("it is over or never was")
	}
	if err != nil {
		return api.OperatorToken{}, err
	}
	now := d.o.Now().UTC()
	switch {
	case s.Over == noRole:
		return api.OperatorToken{}, roleless(s.Name)
	case s.Over != "":
		return api.OperatorToken{}, ended(s.Over)
	case !now.Before(s.Expires):
		return api.OperatorToken{}, ended("it lasted until " + s.Expires.Format(time.RFC3339))
	case kind == store.BrowserSession && now.Sub(s.Seen) >= d.o.Idle:
		return api.OperatorToken{}, ended("nobody used it for " + d.o.Idle.String())
	}
	out, err := d.holder(ctx, s)
	if err != nil {
		return out, err
	}
	if active && now.Sub(s.Seen) >= usedEvery {
		if err := d.o.Store.TouchSession(ctx, s.Hash, now); err != nil {
			d.o.Logger.Warn("use of a session is not written down", "operator", s.Name, "err", err)
		}
	}
	return out, nil
}

// holder is who a session is of. Their role is what it is now, and gone with the
// token, or with the line of the -oidc file, that they have it by.
func (d *Desk) holder(ctx context.Context, s store.Session) (api.OperatorToken, error) {
	if s.Claims == nil {
		o, err := d.operatorByHash(ctx, s.Token)
		if fault.Is(err, fault.Denied) {
			return api.OperatorToken{}, ended("the token it was begun with is good no more")
		}
		if err != nil {
			return api.OperatorToken{}, err
		}
		return operatorInfo(o), nil
	}
	p, err := d.person(*s.Claims)
	if fault.Is(err, fault.Denied) {
		if err := d.Reconsider(ctx); err != nil {
			d.o.Logger.Error("a session without a role is refused, and not ended", "operator", s.Name, "err", err)
		}
		return api.OperatorToken{}, roleless(s.Name)
	}
	return sessionInfo(s, p), err
}

func ended(why string) error {
	return fault.Newf(fault.Denied, "authenticate", "session", "%s", why).WithHint("sign in again: `modelfleet login`, or the dashboard's page")
}

// sessionInfo is of a person's session.
func sessionInfo(s store.Session, p store.Person) api.OperatorToken {
	return api.OperatorToken{Name: p.Name, Role: p.Role, Scope: p.Scope, Created: s.Created, Expires: s.Expires, Used: s.Seen, Session: true, As: []string{p.Identity()}}
}

// SignOut ends the session that is shown; with all set, every session of its
// holder, wherever it was begun.
func (d *Desk) SignOut(ctx context.Context, session string, all bool) error {
	s, err := d.o.Store.Session(ctx, fleet.DigestOf([]byte(session)))
	if fault.Is(err, fault.NotFound) {
		return nil // it is over
	}
	if err != nil {
		return err
	}
	reason, why := "here", "its holder signed out"
	if all {
		reason, why = "everywhere", "its holder signed out everywhere"
	}
	note := audit.Note{At: d.o.Now().UTC(), Actor: s.Name, Action: audit.OperatorSignedOut, Subject: s.Name, Reason: reason}
	return d.endSessions(ctx, func(x store.Session) bool { return x.Hash == s.Hash || all && x.Name == s.Name }, why, note)
}

func (d *Desk) endSessions(ctx context.Context, which func(store.Session) bool, why string, notes ...audit.Note) error {
	all, err := d.o.Store.Sessions(ctx)
	if err != nil {
		return err
	}
	var hashes []fleet.Digest
	for _, s := range all {
		if s.Over == "" && which(s) {
			hashes = append(hashes, s.Hash)
		}
	}
	return d.o.Store.EndSessions(ctx, hashes, why, notes...)
}
