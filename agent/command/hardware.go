package command

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// hardware prints what this machine is known by, one name a line, the surest first:
// any of them is for `modelfleet token create --hardware`.
func hardware(_ context.Context, _ string, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("modelfleet-agent hardware", flag.ContinueOnError)
	join := f.String("join", "", "join `token`: print digests that reveal nothing about the machine and are valid only in the token's fleet")
	if err := readFlags(f, args, "", stderr); err != nil {
		return err
	}
	names := identity.HardwareNames()
	if len(names) == 0 {
		return fault.Newf(fault.NotFound, "name hardware", "", "no hardware id is readable by this user").
			WithHint("run it as root, or create /etc/machine-id with systemd-machine-id-setup")
	}
	if *join != "" {
		tok, err := trust.ParseJoinToken(*join)
		if err != nil {
			return err
		}
		for i, name := range names {
			names[i] = identity.HardwareDigest(tok.Root, name).String()
		}
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(stdout, name); err != nil {
			return err
		}
	}
	return nil
}
