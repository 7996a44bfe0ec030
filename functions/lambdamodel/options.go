package lambdamodel

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Require says what a function needs before its first invocation.
type Require string

// What may be required.
const (
	Any   Require = "any"   // start in any case; invocations without a model fail until there is one
	Fresh Require = "fresh" // fail init unless the directive was verified now and its release loaded
)

// OnStale says what happens when the directive's validity has passed, for
// example after a long freeze without a coordinator to be reached.
type OnStale string

// What may happen.
const (
	ServeStale  OnStale = "serve"  // go on with what is loaded
	RefuseStale OnStale = "refuse" // fail invocations until a fresh directive was verified
)

// Options say which model, from which fleet. Token and Model must be given.
type Options struct {
	Token  string          // join token of kind function: coordinator, root, group
	Model  fleet.ModelName //
	Dir    string          // default modelfleet under the temporary folder
	Labels fleet.Labels    // besides function and region, which are set by themselves
	// Source is where releases are read from: the base URL of a web server, or a
	// folder. Default: URLs that the coordinator signs.
	Source string

	Require    Require       // default Any
	OnStale    OnStale       // default ServeStale
	InitBudget time.Duration // default 2.5 s; Lambda gives 10 s to everything together
	Refresh    time.Duration // default 30 s; each environment draws its own within 20 %
	Grace      time.Duration // how long an invocation waits at its end for a refresh in progress; default 100 ms

	Report      time.Duration // between reports after the first invocations; default 10 s
	FlushBudget time.Duration // how long an invocation waits at its end for a report; default 50 ms
	Window      time.Duration // of errored-window counting; default 10 s, as in the rest of the fleet

	Version string // of the function, for the coordinator; default "dev"
	Logger  *slog.Logger

	clock func() time.Time // the host's; default time.Now. Tests move it
}

// FromEnv reads the options from the function's environment:
//
//	MODELFLEET_TOKEN        join token of kind function
//	MODELFLEET_MODEL        the model's name
//	MODELFLEET_DIR          default /tmp/modelfleet
//	MODELFLEET_LABELS       k=v,k=v
//	MODELFLEET_SOURCE       base URL or folder; default URLs signed by the coordinator
//	MODELFLEET_REQUIRE      any (default) or fresh
//	MODELFLEET_ON_STALE     serve (default) or refuse
//	MODELFLEET_INIT_BUDGET  default 2.5s
//	MODELFLEET_REFRESH      default 30s
//	MODELFLEET_REPORT       default 10s
//	MODELFLEET_WINDOW       default 10s
func FromEnv(getenv func(string) string) (Options, error) {
	o := Options{
		Token:   getenv("MODELFLEET_TOKEN"),
		Model:   fleet.ModelName(getenv("MODELFLEET_MODEL")),
		Dir:     getenv("MODELFLEET_DIR"),
		Source:  getenv("MODELFLEET_SOURCE"),
		Require: Require(getenv("MODELFLEET_REQUIRE")),
		OnStale: OnStale(getenv("MODELFLEET_ON_STALE")),
	}
	for name, d := range map[string]*time.Duration{
		"MODELFLEET_INIT_BUDGET": &o.InitBudget, "MODELFLEET_REFRESH": &o.Refresh,
		"MODELFLEET_REPORT": &o.Report, "MODELFLEET_WINDOW": &o.Window,
	} {
		text := getenv(name)
		if text == "" {
			continue
		}
		v, err := time.ParseDuration(text)
		if err != nil || v <= 0 {
			return o, fault.Newf(fault.Invalid, "read environment", name, "%q is not a positive duration", text).WithHint("write for example 2.5s")
		}
		*d = v
	}
	labels, err := parseLabels(getenv("MODELFLEET_LABELS"))
	if err != nil {
		return o, err
	}
	o.Labels = labels
	return o, o.validate()
}

func parseLabels(text string) (fleet.Labels, error) {
	labels := fleet.Labels{}
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		k, v, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fault.Newf(fault.Invalid, "read environment", "MODELFLEET_LABELS", "%q has no =", part).WithHint("write for example app=scorer,ring=lab")
		}
		labels[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	return labels, nil
}

func (o Options) validate() error {
	bad := func(what, format string, args ...any) error {
		return fault.Newf(fault.Invalid, "read options", what, format, args...).
			WithHint("the function's environment sets it: see package lambdamodel, FromEnv")
	}
	if _, err := fleet.ParseModelName(string(o.Model)); err != nil {
		return bad("MODELFLEET_MODEL", "%w", err)
	}
	switch {
	case o.Token == "":
		return bad("MODELFLEET_TOKEN", "there is none; `modelfleet token create --kind function` makes one")
	case o.Require != "" && o.Require != Any && o.Require != Fresh:
		return bad("MODELFLEET_REQUIRE", "%q is neither any nor fresh", o.Require)
	case o.OnStale != "" && o.OnStale != ServeStale && o.OnStale != RefuseStale:
		return bad("MODELFLEET_ON_STALE", "%q is neither serve nor refuse", o.OnStale)
	}
	return nil
}

func (o Options) withDefaults() Options {
	o.Dir = cmp.Or(o.Dir, filepath.Join(os.TempDir(), "modelfleet"))
	o.Require = cmp.Or(o.Require, Any)
	o.OnStale = cmp.Or(o.OnStale, ServeStale)
	o.InitBudget = cmp.Or(o.InitBudget, 2500*time.Millisecond)
	o.Refresh = cmp.Or(o.Refresh, 30*time.Second)
	o.Grace = cmp.Or(o.Grace, 100*time.Millisecond)
	o.Report = cmp.Or(o.Report, 10*time.Second)
	o.FlushBudget = cmp.Or(o.FlushBudget, 50*time.Millisecond)
	o.Version = cmp.Or(o.Version, "dev")
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.clock == nil {
		o.clock = time.Now
	}
	labels := fleet.Labels{}
	if name := os.Getenv("AWS_LAMBDA_FUNCTION_NAME"); name != "" {
		labels["function"] = name
	}
	if region := os.Getenv("AWS_REGION"); region != "" {
		labels["region"] = region
	}
	for k, v := range o.Labels {
		labels[k] = v
	}
	o.Labels = labels
	return o
}

// memberName begins a member's id: the function's name as ids may be written.
func memberName(function string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, function)
	name = strings.Trim(name, "-")
	return cmp.Or(fmt.Sprintf("%.40s", name), "function")
}
