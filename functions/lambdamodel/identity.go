package lambdamodel

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// identify takes up the identity that lies in the folder, so that a crash does
// not make another member of this environment, or enrols. One that is damaged
// counts as none: /tmp may be cut short by a kill. The trust is zero when the
// identity was kept.
func identify(ctx context.Context, o Options, tok trust.JoinToken) (*identity.Member, trust.State, error) {
	at := identity.Options{Dir: o.Dir, Attempts: 2, Token: tok}
	me, err := identity.Load(ctx, at)
	if err == nil || ctx.Err() != nil {
		return me, trust.State{}, err
	}
	// Of a key without its identity, or the other way round, there is no use.
	if err := identity.Forget(at); err != nil {
		return nil, trust.State{}, err
	}
	var salt [6]byte
	rand.Read(salt[:]) // never fails
	name := memberName(os.Getenv("AWS_LAMBDA_FUNCTION_NAME")) + "-" + hex.EncodeToString(salt[:])
	n := identity.Newcomer{ID: fleet.MemberID(name), Kind: fleet.Function, Labels: o.Labels, Agent: o.Version}
	if c, ok := identity.CredentialsFrom(os.Getenv); ok { // the token may be for the function's role only
		n.Role = &c
	}
	me, first, err := identity.Enrol(ctx, at, n)
	return me, first.Trust, err
}
