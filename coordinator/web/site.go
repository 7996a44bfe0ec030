package web

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/coordinator/web/chart"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

//go:embed templates/*.html static/*
var files embed.FS

// policy lets a page use this server and nothing else, and nobody frame it.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// site is the dashboard: options, parsed templates and the key of its cookies.
type site struct {
	Options
	seal  sealer
	pages map[string]*template.Template
	mux   *http.ServeMux
}

func newSite(o Options) (http.Handler, error) {
	if o.Source == nil || o.Logger == nil {
		return nil, fault.Newf(fault.Internal, "make dashboard", "", "Source and Logger are required")
	}
	if o.Throttle == nil {
		o.Throttle = throttle.New(throttle.Options{Now: o.Now})
	}
	o.Silent = cmp.Or(o.Silent, 3*time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	seal, err := newSealer(o.Key)
	if err != nil {
		return nil, err
	}
	s := &site{Options: o, seal: seal, mux: http.NewServeMux()}
	if s.pages, err = s.parse(); err != nil {
		return nil, err
	}
	s.routes()
	return http.NewCrossOriginProtection().Handler(s.guard(s.mux)), nil
}

// routes are every path the dashboard answers.
func (s *site) routes() {
	static, _ := fs.Sub(files, "static") // the directory is embedded above
	s.mux.Handle("GET /static/", http.StripPrefix("/static/", cached(http.FileServerFS(static))))
	s.mux.HandleFunc("GET /login", s.loginForm)
	s.mux.HandleFunc("POST /login", s.login)
	s.mux.HandleFunc("GET /login/issuer", s.toIssuer)
	s.mux.HandleFunc("GET /login/callback", s.fromIssuer)
	s.mux.Handle("POST /logout", s.signedIn(s.logout))

	s.mux.Handle("GET /{$}", s.page(s.fleetPage))
	s.mux.Handle("GET /members", s.page(s.membersPage))
	s.mux.Handle("GET /members/{id}", s.page(s.memberPage))
	s.mux.Handle("GET /rollouts", s.page(s.rolloutsPage))
	s.mux.Handle("GET /rollouts/{id}", s.page(s.rolloutPage))
	s.mux.Handle("POST /rollouts/{id}/{command}", s.page(s.command))
	s.mux.Handle("GET /releases", s.page(s.releasesPage))
	s.mux.Handle("GET /audit", s.page(s.auditPage))
	s.mux.Handle("GET /events", s.signedIn(s.events))
	s.mux.Handle("/", s.page(func(*http.Request, visitor) (view, error) {
		return view{}, fault.Newf(fault.NotFound, "open page", "", "there is no page of that name").
			WithHint("begin at the fleet page")
	}))
}

// guard sets the headers that every answer carries.
func (s *site) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// cached lets a browser keep what is compiled into the program for an hour.
func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, max-age=3600")
		next.ServeHTTP(w, r)
	})
}

// visitor is who asks.
type visitor struct {
	api.OperatorToken
	Form string // what each form of the session must carry
}

// May reports whether the visitor's role allows what needs another role.
func (v visitor) May(need string) bool {
	rank := map[api.Role]int{api.Viewer: 1, api.Operator: 2, api.Approver: 3, api.Admin: 4}
	return rank[v.Role] >= rank[api.Role(need)]
}

// view is a page to render: its template, its title, and the data of both.
type view struct {
	page, title string
	nav         string // which entry of the navigation is the current one
	data        any
	redirect    string // go there instead
}

// page is a handler that renders the view it is given.
func (s *site) page(make func(*http.Request, visitor) (view, error)) http.Handler {
	return s.signedIn(func(w http.ResponseWriter, r *http.Request, who visitor) {
		v, err := make(r, who)
		switch {
		case err != nil:
			s.problem(w, r, err, who)
		case v.redirect != "":
			http.Redirect(w, r, v.redirect, http.StatusSeeOther)
		default:
			s.render(w, r, http.StatusOK, v, who)
		}
	})
}

// frame is what the layout shows around a page.
type frame struct {
	Title, Nav, Fleet string
	Visitor           visitor
	Findings          []api.Finding // worth a banner, gravest first
	Data              any
	Now               time.Time
}

// render writes a page, whole or not at all: a template that fails half way
// must not leave half a page that looks like all there is.
func (s *site) render(w http.ResponseWriter, r *http.Request, status int, v view, who visitor) {
	f := frame{Title: v.title, Nav: v.nav, Visitor: who, Data: v.data, Now: s.Now()}
	if who.Name != "" {
		if info, err := s.Source.Fleet(r.Context(), who.OperatorToken); err == nil {
			f.Fleet = info.Name
		}
		f.Findings = s.banner(r.Context(), who)
	}
	var page bytes.Buffer
	if err := s.pages[v.page].ExecuteTemplate(&page, "layout", f); err != nil {
		s.Logger.Error("page not rendered", "page", v.page, "err", err)
		http.Error(w, "this page could not be rendered; the coordinator's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if _, err := page.WriteTo(w); err != nil {
		s.Logger.Debug("page not delivered", "page", v.page, "err", err)
	}
}

// problem shows an error as a page, with its next move.
func (s *site) problem(w http.ResponseWriter, r *http.Request, err error, who visitor) {
	kind := fault.KindOf(err)
	if kind == fault.Internal {
		s.Logger.Error("page failed", "path", r.URL.Path, "err", err)
	}
	s.render(w, r, kind.Status(), view{page: "problem", title: "Not shown", data: struct{ Kind, Text, Hint string }{
		kind.String(), err.Error(), fault.Hint(err),
	}}, who)
}

// parse reads the templates: each page is the layout with its own "content".
func (s *site) parse() (map[string]*template.Template, error) {
	base, err := template.New("").Funcs(s.funcs()).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fault.New(fault.Internal, "read templates", "layout", err)
	}
	pages := map[string]*template.Template{}
	for _, name := range []string{"login", "problem", "fleet", "members", "member", "rollouts", "rollout", "releases", "audit"} {
		t, err := base.Clone()
		if err == nil {
			_, err = t.ParseFS(files, "templates/"+name+".html")
		}
		if err != nil {
			return nil, fault.New(fault.Internal, "read templates", name, err)
		}
		pages[name] = t
	}
	return pages, nil
}

// funcs are what templates may call.
func (s *site) funcs() template.FuncMap {
	return template.FuncMap{
		"when":     func(t time.Time) template.HTML { return when(t, s.Now()) },
		"dur":      chart.Duration,
		"count":    func(n any) string { return countAny(n) },
		"plural":   plural,
		"size":     size,
		"tone":     tone,
		"gravity":  findingTone,
		"coded":    coded,
		"words":    words,
		"barred":   api.Barred,
		"number":   chart.Number,
		"evidence": chart.EvidenceBar,
		"list":     func(v ...any) []any { return v },
	}
}

func countAny(n any) string {
	switch v := n.(type) {
	case int:
		return count(uint64(max(v, 0)))
	case uint64:
		return count(v)
	default:
		return fmt.Sprint(v)
	}
}

// words splits a state's name for people: "RollingBack" is "rolling back".
func words(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
