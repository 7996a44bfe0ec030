package coordinator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Main is the program: it reads the command line, coordinates until ctx ends, and
// returns the exit code.
func Main(ctx context.Context, version string, args []string, stderr io.Writer) int {
	opts, err := Parse(args, stderr)
	opts.Version = version
	if err == nil {
		err = Run(ctx, opts)
	}
	if err == nil || errors.Is(err, ErrHelp) {
		return 0
	}
	fmt.Fprintln(stderr, "modelfleet-coordinator:", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintln(stderr, "hint:", hint)
	}
	return fault.KindOf(err).Exit()
}

// ErrHelp is returned by [Parse] when help was asked for, and given.
var ErrHelp = flag.ErrHelp

const usage = `modelfleet-coordinator decides what each member of a fleet runs.

It needs the folder created by "modelfleet init" (of its keys only coordinator.pem,
timestamp.pem, device-ca.pem and audit.key), its own data folder, and the fleet's
bucket. AWS credentials come from the environment, shared files or the machine's
role. On its first start it writes an admin's context file to the data folder:
admin.context.json.

  modelfleet-coordinator -fleet ./fleet -data /var/lib/modelfleet-coordinator -listen :8443 -url https://fleet.example:8443
  modelfleet --context /var/lib/modelfleet-coordinator/admin.context.json members list

Flags:
`

// Parse reads the command line. Help and complaints about flags go to w.
func Parse(args []string, w io.Writer) (Options, error) {
	var o Options
	fs := flag.NewFlagSet("modelfleet-coordinator", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.Fleet, "fleet", "", "`folder` created by \"modelfleet init\"")
	fs.StringVar(&o.Data, "data", "", "`folder` for the database and the listener's TLS key")
	fs.StringVar(&o.Listen, "listen", ":8443", "`host:port` for members, operators and the dashboard")
	fs.StringVar(&o.URL, "url", "", "`URL` that members use to reach it; default: the listener's address")
	fs.StringVar(&o.Bucket, "bucket", "", "`name` of the bucket, or dir:PATH; default: the fleet's")
	fs.StringVar(&o.Prefix, "prefix", "", "`prefix` of all object keys in the bucket; default: the fleet's")
	fs.StringVar(&o.Endpoint, "s3-endpoint", "", "`URL` of an S3 server other than AWS; default: the fleet's")
	fs.StringVar(&o.Region, "region", "", "AWS `region`; default: the fleet's")
	fs.StringVar(&o.Key, "key", "", "the coordinator's key, a `file` or awskms:///...; default: the fleet's")
	fs.DurationVar(&o.Certificates, "certificate-life", 0, "lifetime of members' certificates, which renew at two thirds of it; default 168h")
	fs.DurationVar(&o.PackURLs, "pack-url-life", 0, "lifetime of the presigned URLs that members read trust packs from while the coordinator is down; default and maximum 168h")
	fs.StringVar(&o.URLProfile, "url-profile", "", "AWS `profile` that presigns members' URLs, if the coordinator's own role credentials expire too soon; default: the coordinator's credentials")
	fs.DurationVar(&o.Reload, "reload", 0, "polling interval for new roots and policies in the bucket and for changed roles in the -oidc file; default 1m")
	fs.Func("device-ca-key", "additional device CA key, a `file` or awskms:///...; repeatable; the fleet's keys/device-ca*.pem are loaded automatically", func(ref string) error {
		o.DeviceCAKeys = append(o.DeviceCAKeys, ref)
		return nil
	})
	fs.StringVar(&o.AuditKey, "audit-key", "", "`file` with the key that signs the audit log; default: the key among FLEET/keys/audit*.key that the policy lists")
	fs.StringVar(&o.TimestampKey, "timestamp-key", "", "the timestamp key, a `file` or awskms:///..., or none if only the heartbeat function signs timestamps; default: the fleet's")
	fs.DurationVar(&o.Tick, "tick", 10*time.Second, "interval between evaluations of the fleet")
	fs.DurationVar(&o.Report, "report", 10*time.Second, "report interval of members in a rollout")
	fs.DurationVar(&o.Idle, "idle", 0, "report interval of other members; default: six times -report")
	fs.Func("keep-revoked", "`model` whose members keep serving a delisted or revoked release if they have no other; repeatable; default: they stop serving it", func(name string) error {
		m, err := fleet.ParseModelName(name)
		o.KeepRevoked = append(o.KeepRevoked, m)
		return err
	})
	fs.StringVar(&o.JoinCell, "join-cell", "", "`site` whose gossip cell to join")
	fs.StringVar(&o.GossipBind, "gossip-bind", ":7946", "`host:port` for the gossip of -join-cell")
	fs.StringVar(&o.OIDC, "oidc", "", "`file` with the OpenID issuer and its role mappings; default: sign-in by token only")
	fs.DurationVar(&o.Session, "session", 12*time.Hour, "lifetime of a dashboard session; the -oidc file may override it")
	fs.DurationVar(&o.SessionIdle, "session-idle", 2*time.Hour, "idle time after which a dashboard session ends")
	fs.BoolVar(&o.MetricsOpen, "metrics-open", false, "serve /metrics without authentication, instead of requiring a viewer's token")
	level := slog.LevelInfo
	fs.TextVar(&level, "log-level", slog.LevelInfo, "minimum `level` to log: debug, info, warn or error")
	format := fs.String("log-format", "text", "log `format`: text or json")
	help := func() { fmt.Fprint(w, usage); fs.SetOutput(w); fs.PrintDefaults() }
	fs.Usage = func() {}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			help()
			return o, ErrHelp
		}
		return o, fault.New(fault.Invalid, "read flags", "", err).WithHint("see modelfleet-coordinator -help")
	}
	if fs.NArg() > 0 {
		return o, fault.Newf(fault.Invalid, "read flags", fs.Arg(0), "unexpected argument").WithHint("see modelfleet-coordinator -help")
	}
	conf := &slog.HandlerOptions{Level: level}
	switch *format {
	case "text":
		o.Logger = slog.New(slog.NewTextHandler(w, conf))
	case "json":
		o.Logger = slog.New(slog.NewJSONHandler(w, conf))
	default:
		return o, fault.Newf(fault.Invalid, "read flags", "-log-format", "%q is neither text nor json", *format)
	}
	return o, o.Validate()
}
