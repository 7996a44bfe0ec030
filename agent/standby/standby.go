package standby

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// patience is how long a pack may take to come.
const patience = 2 * time.Minute

// Options say whose packs are meant. Path, Root, Key and Ask must be given.
type Options struct {
	Path string       // of the file that holds the URL
	Root fleet.Digest // that the device pinned: the URL of another fleet's pack counts as none
	Key  string       // of the pack in the bucket
	// Ask asks the coordinator for a URL.
	Ask    func(context.Context) (api.PackURL, error)
	Now    func() time.Time                                       // default time.Now
	Write  func(path string, data []byte, perm fs.FileMode) error // default [cas.WriteFile]
	Client *http.Client                                           // for the bucket; default as in package web
	Logger *slog.Logger                                           // default slog.Default()
}

// Standby is the way to the packs. Make it with [Open]; it may be used by many
// goroutines.
type Standby struct {
	o   Options
	web *web.Reader

	asking sync.Mutex // one question at a time

	mu      sync.Mutex
	have    kept
	asked   bool      // since the start
	failed  time.Time // when the last question did
	again   time.Time // no other before
	lacks   error     // why there is no newer URL, or not on the disk; nil: there is
	refused error     // why the bucket refuses this one; nil: it does not
}

const (
	askAgain = 10 * time.Minute // after a question that failed
	askSoon  = time.Minute      // the same, of who has no URL at all
	askNever = 24 * time.Hour   // after the answer that there are no URLs
)

// Open reads the URL that was kept. A file that cannot be used counts as none:
// the coordinator gives another.
func Open(o Options) (*Standby, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Write == nil {
		o.Write = cas.WriteFile
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Standby{o: o}
	var err error
	s.web, err = web.Open(web.Options{Sign: s.sign, Client: o.Client, Max: trust.MaxPack})
	if err != nil {
		return nil, err
	}
	have, err := load(o.Path)
	switch {
	case err != nil:
		o.Logger.Warn("kept pack url is not used", "err", err, "hint", fault.Hint(err))
	case have.Root == o.Root && have.Key == o.Key:
		s.have = have
	}
	return s, nil
}

// Heard is told that the coordinator answered just now, and asks it for a URL if
// one is due.
func (s *Standby) Heard(ctx context.Context) {
	if !s.asking.TryLock() {
		return
	}
	defer s.asking.Unlock()
	if !s.due(s.o.Now().Round(0)) {
		return
	}
	u, err := s.o.Ask(ctx)
	now := s.o.Now().Round(0)
	next := kept{Schema: schema, Root: s.o.Root, Key: s.o.Key, URL: u.URL, Since: now.UTC(), Life: u.Life}
	if err == nil {
		err = next.check()
	}
	fits := err == nil
	if fits {
		err = save(s.o.Path, next, s.o.Write)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fits { // on a disk that takes nothing it is good until the agent ends
		s.have, s.asked, s.refused = next, true, nil
	}
	if s.lacks = err; err == nil {
		s.again = time.Time{}
		s.o.Logger.Debug("pack url kept", "host", next.host(), "until", next.end())
		return
	}
	s.failed, s.again = now, now.Add(askAgain)
	if s.have.URL == "" {
		s.again = now.Add(askSoon)
	}
	if !fits && fault.Is(err, fault.Invalid) {
		s.again = now.Add(askNever)
	}
	s.o.Logger.Debug("no pack url", "kind", fault.KindOf(err).String(), "err", err)
}

// due reports whether the coordinator should be asked, were it heard now. Once
// since the start whatever the file says: the clock may have been anything.
func (s *Standby) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.again) && !now.Before(s.failed) {
		return false
	}
	return !s.asked || s.refused != nil || now.Before(s.have.Since) || now.Sub(s.have.Since) >= s.have.Life.D()/2
}

// Get reads the pack by the URL. With a non-empty ifNoneMatch that is the pack's
// ETag it returns [registry.ErrNotModified]. Without a URL the error is NotFound.
func (s *Standby) Get(ctx context.Context, ifNoneMatch string) (pack []byte, etag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience) // who drips must not hold the way
	defer cancel()
	u := s.url()
	pack, etag, err = s.web.Get(ctx, s.o.Key, ifNoneMatch)
	if u != "" {
		s.judge(u, err)
	}
	return pack, etag, err
}

// judge takes note of how the bucket answered to a URL. S3 says 403 when it ended
// or its signer lost the right, and 400 when the signer's session ended.
func (s *Standby) judge(u string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.have.URL != u: // it was replaced meanwhile
	case err == nil, errors.Is(err, registry.ErrNotModified):
		s.refused = nil
	case fault.Is(err, fault.Denied), fault.Is(err, fault.Invalid):
		if s.refused == nil {
			s.o.Logger.Warn("the bucket refuses the pack url", "host", s.have.host(), "until", s.have.end(), "kind", fault.KindOf(err).String(), "err", err)
		}
		s.refused = err
	}
}

func (s *Standby) url() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have.URL
}

// sign gives the reader the URL, for one use.
func (s *Standby) sign(context.Context, []string) ([]string, time.Time, error) {
	if u := s.url(); u != "" {
		return []string{u}, time.Time{}, nil
	}
	return nil, time.Time{}, fault.Newf(fault.NotFound, "read pack", s.o.Key, "no URL of it was handed out yet").
		WithHint("let the device reach the coordinator once, or give it a pack by file: modelfleet pack export")
}

// View is how the way stands, for people.
type View struct {
	Until   time.Time // when the URL ends, by the device's clock; zero: there is none
	Trouble string    // what is wrong with it, and the next move; "": nothing
}

// View tells how the way stands now.
func (s *Standby) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := View{}
	if s.lacks != nil {
		v.Trouble = "the last question for one failed: " + s.lacks.Error()
		if hint := fault.Hint(s.lacks); hint != "" {
			v.Trouble += "; " + hint
		}
	}
	if s.have.URL == "" {
		return v
	}
	v.Until = s.have.end()
	switch {
	case !s.o.Now().Before(v.Until):
		v.Trouble = "it ended; " + remedy
	case s.refused != nil:
		v.Trouble = "the bucket refuses it before its time: the credentials that signed it were taken back, or the clocks differ; " + remedy
	}
	return v
}

const remedy = "the coordinator gives another when it is back; until then a neighbour's pack or one by file will do: modelfleet pack export"
