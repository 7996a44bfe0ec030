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

It needs the folder that "modelfleet init" made (of its keys only coordinator.pem,
timestamp.pem, device-ca.pem and audit.key), a data folder of its own, and the fleet's bucket.
AWS credentials come from the environment, shared files or the machine's role.
At its first start it writes a context for the operators' commands into the data
folder: admin.context.json.

  modelfleet-coordinator -fleet ./fleet -data /var/lib/modelfleet-coordinator -listen :8443 -url https://fleet.example:8443
  modelfleet --context /var/lib/modelfleet-coordinator/admin.context.json members list

Flags:
`

// Parse reads the command line. Help and complaints about flags go to w.
func Parse(args []string, w io.Writer) (Options, error) {
	var o Options
	fs := flag.NewFlagSet("modelfleet-coordinator", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.Fleet, "fleet", "", "`folder` made by \"modelfleet init\"")
	fs.StringVar(&o.Data, "data", "", "`folder` for the store and the listener's key")
	fs.StringVar(&o.Listen, "listen", ":8443", "`host:port` for members, operators and the dashboard")
	fs.StringVar(&o.URL, "url", "", "`URL` that members reach it by; default: the listener's address")
	fs.StringVar(&o.Bucket, "bucket", "", "`name` of the bucket, or dir:PATH; default: the fleet's")
	fs.StringVar(&o.Prefix, "prefix", "", "`prefix` of all keys in the bucket; default: the fleet's")
	fs.StringVar(&o.Endpoint, "s3-endpoint", "", "`URL` of another S3 server than AWS; default: the fleet's")
	fs.StringVar(&o.Region, "region", "", "AWS `region`; default: the fleet's")
	fs.StringVar(&o.Key, "key", "", "the coordinator's key, a `file` or awskms:///...; default: the fleet's")
	fs.DurationVar(&o.Certificates, "certificate-life", 0, "how long members' certificates are valid; renewed at two thirds; default 168h")
	fs.DurationVar(&o.PackURLs, "pack-url-life", 0, "how long the URLs are good that members read packs by while the coordinator is away; default, and at most, 168h")
	fs.StringVar(&o.URLProfile, "url-profile", "", "AWS `profile` whose keys sign the URLs that members read by, where those of the coordinator's role would end too soon; default: the coordinator's own")
	fs.DurationVar(&o.Reload, "reload", 0, "time between looks for new roots and policies in the bucket, and for other roles in the -oidc file; default 1m")
	fs.Func("device-ca-key", "a further key of a device CA, a `file` or awskms:///...; may be repeated; those in the fleet's keys/device-ca*.pem are found", func(ref string) error {
		o.DeviceCAKeys = append(o.DeviceCAKeys, ref)
		return nil
	})
	fs.StringVar(&o.AuditKey, "audit-key", "", "`file` of a key that signs the audit log; default: the one of FLEET/keys/audit*.key that the policy lists")
	fs.StringVar(&o.TimestampKey, "timestamp-key", "", "the timestamp's key, a `file` or awskms:///..., or none where the heartbeat function alone signs; default: the fleet's")
	fs.DurationVar(&o.Tick, "tick", 10*time.Second, "time between two looks at the fleet")
	fs.DurationVar(&o.Report, "report", 10*time.Second, "how often members in a rollout report")
	fs.DurationVar(&o.Idle, "idle", 0, "how often the others report; default: six times -report")
	fs.Func("keep-revoked", "a `model` of which members go on serving a release that was taken back when they have nothing else that may run; may be repeated; by default they stop serving it", func(name string) error {
		m, err := fleet.ParseModelName(name)
		o.KeepRevoked = append(o.KeepRevoked, m)
		return err
	})
	fs.StringVar(&o.JoinCell, "join-cell", "", "`site` whose gossip to take part in")
	fs.StringVar(&o.GossipBind, "gossip-bind", ":7946", "`host:port` for the gossip of -join-cell")
	fs.StringVar(&o.OIDC, "oidc", "", "`file` that says at which OpenID issuer people sign in, and what they may; default: by token only")
	fs.DurationVar(&o.Session, "session", 12*time.Hour, "how long a sign-in to the dashboard lasts; the -oidc file may say otherwise")
	fs.DurationVar(&o.SessionIdle, "session-idle", 2*time.Hour, "after which a dashboard that nobody uses signs out")
	fs.BoolVar(&o.MetricsOpen, "metrics-open", false, "serve /metrics to whoever asks, not only to a viewer's token")
	level := slog.LevelInfo
	fs.TextVar(&level, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn or error")
	format := fs.String("log-format", "text", "text or json")
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
		return o, fault.Newf(fault.Invalid, "read flags", fs.Arg(0), "it belongs to no flag").WithHint("see modelfleet-coordinator -help")
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
