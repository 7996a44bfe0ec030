// Command heartbeat is a Lambda function that signs a fleet's TUF timestamp on a
// schedule and whenever the coordinator has signed a new snapshot, with a key of
// its own: so a coordinator that is down does not make the fleet stale. See
// package beat for what it promises and for its environment.
package main

import (
	"context"
	"os"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
)

func main() {
	open := func(ctx context.Context, ref string) (signature.Signer, error) {
		return keyref.Open(ctx, ref, keyref.Options{})
	}
	os.Exit(beat.Main(context.Background(), os.Getenv, os.Stderr, open))
}
