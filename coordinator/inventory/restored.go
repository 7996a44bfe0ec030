package inventory

import (
	"context"
	"fmt"

	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// catchUp takes over a certificate of a later generation than the store knows. Each
// is in the store before it is given out, so that the store was restored from an
// older backup: the certificate, which our CA signed for the member's own key, knows
// better. A copy that has one of the same or an earlier generation locks
// the identity as ever, when either of them renews. Somebody who has both the
// device CA's key and the member's can make such a certificate too, which is why a
// person is told. The caller holds enrolling and has verified id and its key.
func (v *Inventory) catchUp(ctx context.Context, id ca.Identity, now time.Time) (store.Member, error) {
	m, ok := v.Member(id.ID)
	if err := usable("authenticate member", m, ok); err != nil || id.Generation <= m.Generation {
		return m, err
	}
	note := audit.Note{
		At: now, Actor: audit.Coordinator, Action: audit.MemberCaughtUp, Subject: string(id.ID),
		Reason: fmt.Sprintf("it has a certificate of generation %d, the store knew of %d: the store was restored from a backup", id.Generation, m.Generation),
	}
	m.Generation, m.Certificate, m.Previous = id.Generation, id.Certificate, fleet.Digest{}
	m.Expires, m.Issuer = id.Expires, id.Issuer
	m.Confirmed, m.Readmit = true, false
	if err := v.save(ctx, m, note); err != nil {
		return m, err
	}
	v.log.Warn("store caught up with a certificate", "device", id.ID, "generation", m.Generation)
	if !v.behind { // once: it is so for every member that renewed since the backup
		v.behind = true
		v.o.Alarm(id.ID, note.Reason+"; if nobody restored one, the device CA's key is stolen: modelfleet key rotate device-ca --now")
	}
	v.changed(m)
	return m, nil
}
