package agent

import (
	"cmp"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Options says how an agent runs. State must be given; the first time, Token too.
type Options struct {
	State  string         // folder of everything that lasts
	Token  string         // join token; not looked at once the device has enrolled
	ID     fleet.MemberID // at enrolment; default from the host's name
	Labels fleet.Labels   // at enrolment; "class" and "site" mean something to modelfleet

	Socket  string        // of the local API; default [local.DefaultSocket]
	Lease   time.Duration // of applications; default 1 min
	Source  string        // of model files: "" by URLs from the coordinator, an http(s) URL, or a folder
	Pack    string        // file that trust packs are also read from: an air gap
	Gossip  string        // host:port for the cell; "" joins none
	Address string        // that others of the cell reach it by; default from Gossip

	// Share is the host:port that neighbours are served frames on, at the address
	// that the cell knows; "": the host of Gossip and the port after its own, or
	// any if that is taken; "off": neither give nor ask.
	Share     string
	ShareRate int64 // bytes a second that neighbours are served at; default 32 MiB
	ShareDisk int64 // bytes of frames kept for neighbours; default 512 MiB, negative: none
	Metered   bool  // what is fetched costs money: fewest bytes, neighbours first, and nothing for them

	Report time.Duration // between rows; default 1 min
	Busy   time.Duration // between rows while a rollout concerns the device; default 10 s, at most Report
	Window time.Duration // of errored-window counting; default 10 s

	Probe     probe.Options // the self-test before a release is served
	ErrorRate float64       // share of failed uses, after 50, that a soaking release is given up for; 0: none
	Soak      time.Duration // of releases that no rollout brought; default 5 min
	Health    fleet.Health  // likewise; default 20 failures in a row, 3 restarts

	Retry time.Duration // longest pause before a failed install is tried again; default 10 min

	Scrub time.Duration // between looks at the files that are kept; default 24 h, negative: none

	Rate      int64          // bytes a second that model files are fetched at; 0: no cap
	Download  []fleet.Window // when model files are fetched, in local time; none: always
	Older     int            // releases that stay on the disk, while there is room, besides those that may be needed
	LowMemory bool
	Version   string // of this program
	Logger    *slog.Logger
	Clock     func() time.Time // the device's own clock; nil: time.Now
	// Ready, when not nil, is called once applications are served.
	Ready func(Info)
	// Failpoint, when not nil, is called at each named point between writing the
	// state and doing what follows; an error ends the agent there as a crash
	// would. Tests cut the agent short with it.
	Failpoint func(point string) error

	write func(path string, data []byte, perm fs.FileMode) error // how files are written; tests fill the disk with it
	// verify is [trust.Verifier.Verify]; tests let it panic
	verify func([]byte, trust.State, fleet.Facts, time.Time) (trust.Trusted, trust.State, error)
}

// Info is what an agent that runs says of itself.
type Info struct {
	Member fleet.MemberID
	Fleet  string
	Socket string
	Gossip string // host:port of the cell, or ""
}

func (o *Options) complete() error {
	if o.State == "" {
		return fault.Newf(fault.Invalid, "start agent", "", "no state folder").WithHint("give -state DIR")
	}
	abs, err := filepath.Abs(o.State)
	if err != nil {
		return fault.New(fault.Invalid, "start agent", o.State, err)
	}
	o.State = abs
	if o.ErrorRate < 0 || o.ErrorRate > 1 {
		return fault.Newf(fault.Invalid, "start agent", "error rate", "%g is not between 0 and 1", o.ErrorRate)
	}
	o.Socket = cmp.Or(o.Socket, local.DefaultSocket)
	o.Report = cmp.Or(o.Report, time.Minute)
	o.Busy = min(cmp.Or(o.Busy, 10*time.Second), o.Report)
	o.Soak = cmp.Or(o.Soak, 5*time.Minute)
	o.Version = cmp.Or(o.Version, "dev")
	if o.Health == (fleet.Health{}) {
		o.Health = fleet.Health{FailStreak: 20, Restarts: 3}
	}
	if o.verify == nil {
		o.verify = new(trust.Verifier).Verify
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (o *Options) identityDir() string { return filepath.Join(o.State, "identity") }
