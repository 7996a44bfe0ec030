package beat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
)

// OpenKey opens the timestamp's key: the path of a PEM file, or "awskms:///...".
type OpenKey func(ctx context.Context, ref string) (signature.Signer, error)

// isSnapshot reports whether an object's key is a snapshot's, whatever the prefix.
func isSnapshot(key string) bool { return strings.HasSuffix(key, ".snapshot.json") }

// FromEnv reads the options from the function's environment:
//
//	MODELFLEET_BUCKET              name of the bucket, or dir:PATH
//	MODELFLEET_PREFIX              of all keys in it
//	MODELFLEET_S3_ENDPOINT         URL of another S3 server than AWS
//	MODELFLEET_ROOT                SHA-256, in hex, of the root.json that fleet.json pins
//	MODELFLEET_TIMESTAMP_KEY       awskms:///ALIAS-OR-ID, or the path of a PEM file
//	MODELFLEET_TIMESTAMP_LIFETIME  default 24h: after it members hold what they have
func FromEnv(ctx context.Context, getenv func(string) string, open OpenKey) (Options, error) {
	const op = "read environment"
	var o Options
	var err error
	for _, name := range []string{"MODELFLEET_BUCKET", "MODELFLEET_ROOT", "MODELFLEET_TIMESTAMP_KEY"} {
		if getenv(name) == "" {
			return o, fault.Newf(fault.Invalid, op, name, "it is not set").
				WithHint("the module infra/terraform/modules/heartbeat sets it")
		}
	}
	if o.Pin, err = fleet.ParseDigest(getenv("MODELFLEET_ROOT")); err != nil {
		return o, fault.New(fault.Invalid, op, "MODELFLEET_ROOT", err).WithHint("give the digest in fleet.json")
	}
	if text := getenv("MODELFLEET_TIMESTAMP_LIFETIME"); text != "" {
		if o.Life, err = time.ParseDuration(text); err != nil || o.Life <= 0 {
			return o, fault.Newf(fault.Invalid, op, "MODELFLEET_TIMESTAMP_LIFETIME", "%q is not a positive duration", text).WithHint("write for example 24h")
		}
	}
	if o.Key, err = open(ctx, getenv("MODELFLEET_TIMESTAMP_KEY")); err != nil {
		return o, err
	}
	name := getenv("MODELFLEET_BUCKET")
	if path, isDir := strings.CutPrefix(name, "dir:"); isDir {
		o.Bucket, err = dir.Open(path)
		return o, err
	}
	o.Bucket, err = s3.Open(ctx, s3.Options{Bucket: name, Prefix: getenv("MODELFLEET_PREFIX"), Endpoint: getenv("MODELFLEET_S3_ENDPOINT")})
	return o, err
}

// Handler answers events with what a beat did.
func Handler(o Options) func(context.Context, json.RawMessage) (Result, error) {
	return func(ctx context.Context, event json.RawMessage) (res Result, err error) {
		from, relevant := Notified(event)
		if !relevant {
			o.Logger.Info("event ignored", "from", from)
			return Result{Packs: []fleet.Group{}}, nil
		}
		bad := guard.Do(o.Logger, "beat", from, func() error {
			res, err = Beat(ctx, o, time.Now())
			return nil
		})
		if bad != nil {
			err = bad
		}
		if err != nil {
			o.Logger.Error("no heartbeat", "from", from, "kind", fault.KindOf(err).String(), "err", err, "hint", fault.Hint(err))
			return res, err
		}
		if res.Lapsed != "" {
			o.Logger.Error("members are stale until the keepers of the role sign it anew", "role", res.Lapsed)
		}
		o.Logger.Info("heartbeat", "from", from, "signed", res.Signed, "timestamp", res.Timestamp, "snapshot", res.Snapshot,
			"expires", res.Expires, "packs", len(res.Packs))
		return res, nil
	}
}

// Main takes events until Lambda ends the process; it returns only when it could
// not begin, with the exit code.
func Main(ctx context.Context, getenv func(string) string, stderr io.Writer, open OpenKey) int {
	o, err := FromEnv(ctx, getenv, open)
	if err == nil {
		o.Logger = slog.New(slog.NewJSONHandler(stderr, nil))
		lambda.StartWithOptions(Handler(o), lambda.WithContext(ctx))
	}
	fmt.Fprintln(stderr, "heartbeat:", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintln(stderr, "hint:", hint)
	}
	return fault.KindOf(err).Exit()
}
