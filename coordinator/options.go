// Package coordinator is the central mind of a fleet: it knows its members,
// judges what they report, decides what each should run next, and publishes that
// as one signed directive. This package wires the parts together and owns the
// loop; the parts are in the folders below.
//
//	reports ─▶ intake ─▶ analysis.Evaluate ─▶ rollout.Decide ─▶ one transaction ─▶ publish ─▶ members
//
// The promises of the loop: a decision is in the store, with its audit entries,
// before any member can see it; a crash between any two steps is repeated
// harmlessly by the next start; and nothing but the loop changes a rollout.
package coordinator

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Options say which fleet to coordinate, and how. Fleet and Data must be given.
type Options struct {
	Fleet  string // folder made by `modelfleet init`
	Data   string // folder for the store and the listener's key; made if absent
	Listen string // host:port; default ":8443"
	URL    string // advertised to members; default https:// and the listener's address

	Bucket, Prefix, Endpoint, Region string // override the fleet's file

	// Key and TimestampKey are files or awskms:///...; default: what the fleet's
	// file says, then Fleet/keys/coordinator.pem and timestamp.pem.
	Key, TimestampKey string

	// DeviceCAKeys are further keys of device CAs that the policy lists: files or
	// awskms:///.... Those in Fleet/keys, device-ca*.pem, are found by themselves.
	DeviceCAKeys []string
	Certificates time.Duration // how long members' certificates are valid; default [ca.Lifetime], a week

	Reload time.Duration // between looks for new roots and policies in the bucket, and for roles in the OIDC file; default 1 min

	// PackURLs is how long the URLs are good that members read packs by while the
	// coordinator is away; default, and at most, [registry.MaxURLLife]: a week.
	PackURLs time.Duration
	// URLProfile is the AWS profile whose credentials sign URLs; see [s3.Options].
	URLProfile string

	AuditKey string // the audit log's private key, a file; default Fleet/keys/audit.key

	Tick   time.Duration // between turns of the loop; default 10 s
	Report time.Duration // how often members in a rollout report; default 10 s
	Idle   time.Duration // how often the others do; default six times Report

	// KeepRevoked are the models of which a member goes on serving a release that
	// was taken back when it has nothing else that may run. By default it stops.
	KeepRevoked []fleet.ModelName
	// CellGrace is how long everyone in a cell is given to get a changed key before
	// it is used; default [inventory.CellGrace].
	CellGrace time.Duration

	JoinCell   string // site whose first cell to take part in; "": none
	GossipBind string // host:port for it; default ":7946"

	Version     string        // of the program, for `modelfleet doctor`
	OIDC        string        // file of oidc.Config; "": people sign in by token only
	Session     time.Duration // how long a sign-in lasts; default 12 h
	SessionIdle time.Duration // after which an unused dashboard signs out; default 2 h
	MetricsOpen bool          // serve /metrics to whoever asks

	Lifetimes repository.Lifetimes // of signed metadata
	Await     time.Duration        // for a heartbeat that alone signs the timestamp; default 10 s
	Logger    *slog.Logger         // default: slog.Default()

	// Store replaces the bucket: a folder, in tests and where there is no S3.
	Store registry.Store
	// Serving is told once everything is up; nil: nobody.
	Serving func(Address)
}

// Address is where a coordinator serves.
type Address struct {
	Addr string // host:port of the listener
	URL  string // as advertised
	Pin  string // of the listener's key, as in api.Options
	// Gossip is host:port in the cell that was joined, or "".
	Gossip string
}

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = ":8443"
	}
	if o.GossipBind == "" {
		o.GossipBind = ":7946"
	}
	if o.Tick == 0 {
		o.Tick = 10 * time.Second
	}
	if o.Report == 0 {
		o.Report = 10 * time.Second
	}
	if o.Idle == 0 {
		o.Idle = 6 * o.Report
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Serving == nil {
		o.Serving = func(Address) {}
	}
	return o
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	bad := func(what, why string) error {
		return fault.Newf(fault.Invalid, "read options", what, "%s", why).WithHint("see modelfleet-coordinator -help")
	}
	switch {
	case o.Fleet == "":
		return bad("-fleet", "no fleet folder is given; `modelfleet init` makes one")
	case o.Data == "":
		return bad("-data", "no data folder is given")
	case o.Tick < 0 || o.Report < 0 || o.Idle < 0 || o.Reload < 0:
		return bad("-tick, -report, -idle, -reload", "a duration is negative")
	case o.Certificates != 0 && (o.Certificates < 10*time.Second || o.Certificates > 90*24*time.Hour):
		return bad("-certificate-life", "it is not between 10s and 2160h")
	case o.PackURLs != 0 && (o.PackURLs < time.Second || o.PackURLs > registry.MaxURLLife):
		return bad("-pack-url-life", "it is not between 1s and 168h, the most that S3 takes")
	case o.Session < 0 || o.SessionIdle < 0:
		return bad("-session, -session-idle", "a duration is negative")
	}
	return nil
}

// NoKey as [Options.TimestampKey] says that a heartbeat alone holds the
// timestamp's key.
const NoKey = "none"

// stamp is the timestamp's signer; nil when a heartbeat alone has its key.
func (m material) stamp() signature.Signer {
	if m.timestamp == nil {
		return nil
	}
	return m.timestamp
}

// material is what a coordinator needs of its fleet's folder.
type material struct {
	file      api.FleetFile
	root      []byte // the pinned root.json, out of the bucket
	key       *signer.Signer
	timestamp *signer.Signer
	caRefs    []string // of the device CA's keys, besides those in the folder
}

// load reads the fleet's folder.
func (o Options) load(ctx context.Context) (material, error) {
	var m material
	var err error
	if m.file, err = api.LoadFleetFile(filepath.Join(o.Fleet, api.FleetFileName)); err != nil {
		return m, err
	}
	for _, k := range []struct {
		key          *(*signer.Signer)
		option, name string
		refs         []string
	}{
		{&m.key, o.Key, "coordinator", m.file.Keys.Coordinator},
		{&m.timestamp, o.TimestampKey, "timestamp", m.file.Keys.Timestamp},
	} {
		ref := cmp.Or(k.option, first(k.refs), first(keyFiles(o.Fleet, k.name)), filepath.Join(o.Fleet, "keys", k.name+".pem"))
		if ref == NoKey && k.key == &m.timestamp {
			continue
		}
		if *k.key, err = keyref.Open(ctx, ref, keyref.Options{}); err != nil {
			return m, err
		}
	}
	m.caRefs = slices.Concat(m.file.Keys.DeviceCA, o.DeviceCAKeys)
	return m, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// advertise is the URL that members get when none is given: the listener's
// address, or this machine's name when it listens everywhere.
func advertise(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "https://" + addr.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return "https://" + net.JoinHostPort(host, port)
}
