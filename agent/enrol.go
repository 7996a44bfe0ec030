package agent

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/agent/uplink"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// member is the device as it enrolled, or as it enrols now by the join token.
func (o *Options) member(ctx context.Context) (*identity.Member, identity.Enrolment, error) {
	m, err := identity.Load(ctx, identity.Options{Dir: o.identityDir()})
	if err == nil {
		if m.Expired(time.Now()) && o.freshToken(m.Identity().Token) {
			return o.again(ctx, m)
		}
		if have := m.Identity().Facts.Labels; len(o.Labels) > 0 && !covers(have, o.Labels) {
			o.Logger.Warn("labels are those of the enrolment", "labels", have.String())
		}
		return m, identity.Enrolment{}, nil
	}
	if !fault.Is(err, fault.NotFound) || o.Token == "" {
		return nil, identity.Enrolment{}, err
	}
	name := o.ID
	if name == "" {
		if name, err = hostID(); err != nil {
			return nil, identity.Enrolment{}, err
		}
	}
	m, first, err := o.enrol(ctx, name, o.Labels)
	if err == nil {
		id := m.Identity()
		o.Logger.Info("enrolled", "device", id.Facts.ID, "fleet", id.Fleet, "group", id.Facts.Group, "cell", id.Cell.ID)
	}
	return m, first, err
}

// freshToken reports whether somebody gave the device another join token than the
// one it enrolled by, which may still be of use.
func (o *Options) freshToken(enrolledBy string) bool {
	tok, err := trust.ParseJoinToken(o.Token)
	return err == nil && tok.ID != enrolledBy && time.Now().Before(tok.Expires)
}

// again enrols a device whose certificate expired while it was away, with the
// same key, by a token that was given for it. When that does not go well at once the
// device serves what it has, and comes back by its key.
func (o *Options) again(ctx context.Context, old *identity.Member) (*identity.Member, identity.Enrolment, error) {
	facts := old.Identity().Facts
	labels := o.Labels
	if len(labels) == 0 {
		labels = facts.Labels
	}
	once, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, _, err := o.enrol(once, facts.ID, labels)
	if err != nil {
		o.Logger.Error("certificate has expired and the device could not enrol again", "err", err)
		return old, identity.Enrolment{}, nil
	}
	o.Logger.Info("enrolled again", "device", facts.ID)
	return m, identity.Enrolment{}, nil
}

func (o *Options) enrol(ctx context.Context, id fleet.MemberID, labels fleet.Labels) (*identity.Member, identity.Enrolment, error) {
	tok, err := trust.ParseJoinToken(o.Token)
	if err != nil {
		return nil, identity.Enrolment{}, err
	}
	return uplink.Enrol(ctx, identity.Options{Dir: o.identityDir(), Token: tok},
		identity.Newcomer{ID: id, Kind: fleet.Device, Labels: labels, Agent: o.Version}, o.Logger)
}

// hostID is a member id made from the host's name.
func hostID() (fleet.MemberID, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fault.New(fault.Invalid, "name member", "", err).WithHint("give the agent an -id")
	}
	return fleet.ParseMemberID(strings.ToLower(host))
}

func covers(have, want fleet.Labels) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}
