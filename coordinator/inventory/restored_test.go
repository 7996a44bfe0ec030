package inventory_test

import (
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// restored is a house whose store was put back to what it knew of a member, and what
// its alarms say.
func (h house) restored(t *testing.T, was store.Member) (house, *[]string) {
	t.Helper()
	if err := h.store.SaveMember(t.Context(), was); err != nil {
		t.Fatal(err)
	}
	alarms := new([]string)
	v := must(inventory.New(t.Context(), inventory.Options{
		Store: h.store, CA: h.ca, Logger: quiet(),
		Alarm: func(id fleet.MemberID, text string) { *alarms = append(*alarms, string(id)+": "+text) },
	}))(t)
	return house{v, h.store, h.ca}, alarms
}

// renew has the holder of a certificate renew it, and use the new one.
func (h house) renew(t *testing.T, key *signer.Signer, e inventory.Enrolled) (inventory.Enrolled, error) {
	t.Helper()
	id := h.identity(t, e)
	if _, err := h.Check(t.Context(), id, now); err != nil {
		return e, err
	}
	out, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: id.Generation}, now)
	if err == nil {
		_, err = h.Check(t.Context(), h.identity(t, out), now)
	}
	return out, err
}

// A coordinator whose store was restored from a backup knows less of a member's
// certificates than the member: it learns from the certificate, which it signed. A
// copy is found all the same.
func TestARestoredStoreLocksNoHonestMember(t *testing.T) {
	for name, tc := range map[string]struct {
		ask  func(t *testing.T, h house, key *signer.Signer, newest inventory.Enrolled) error
		want string
	}{
		"it calls": {func(t *testing.T, h house, _ *signer.Signer, newest inventory.Enrolled) error {
			_, err := h.Check(t.Context(), h.identity(t, newest), now)
			return err
		}, audit.MemberCaughtUp},
		"it renews at once": {func(t *testing.T, h house, key *signer.Signer, newest inventory.Enrolled) error {
			id := h.identity(t, newest)
			e, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: id.Generation}, now)
			if err == nil && e.Member.Generation != id.Generation+1 {
				t.Errorf("generation %d follows %d", e.Member.Generation, id.Generation)
			}
			return err
		}, audit.MemberRenewed},
		"it was off too long and comes back": {func(t *testing.T, h house, key *signer.Signer, newest inventory.Enrolled) error {
			_, err := h.comeback(t, key, newest, now.Add(month))
			return err
		}, audit.MemberReturned},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, 1, nil)
			key := must(signer.Ephemeral())(t)
			e := must(h.enrol(t, "a", key, nil))(t)
			must(h.Check(t.Context(), h.identity(t, e), now))(t)
			was, _ := h.Member("a")
			newest := must(h.renew(t, key, must(h.renew(t, key, e))(t)))(t)

			back, alarms := h.restored(t, was)
			if err := tc.ask(t, back, key, newest); err != nil {
				t.Fatalf("an honest member after the restore: %v", err)
			}
			acts := back.actions(t)
			if acts[len(acts)-1] != tc.want || !strings.Contains(strings.Join(acts, " "), audit.MemberCaughtUp) {
				t.Errorf("audited %v", acts)
			}
			if len(*alarms) == 0 || !strings.Contains((*alarms)[0], "restored from a backup") {
				t.Errorf("people are told %q", *alarms)
			}
			if m, _ := reopen(t, back.store, back.ca).Member("a"); m.Generation < newest.Member.Generation || m.Locked != "" {
				t.Errorf("the store holds %+v", m)
			}
		})
	}
}

// Whatever the order in which a member and its copy are seen after a restore, both do
// not go on: the identity is locked when the second of them renews.
func TestACopyIsFoundAfterARestoreToo(t *testing.T) {
	for name, tc := range map[string]struct{ copied, first int }{ // how often the copied folder had renewed, and who asks first
		"a copy from before the backup, first":   {0, 0},
		"a copy from before the backup, second":  {0, 1},
		"a copy from after the backup, first":    {1, 0},
		"a copy from after the backup, second":   {1, 1},
		"a copy of the newest, first or second":  {2, 0},
		"a copy of the newest, the other way on": {2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, 1, nil)
			key := must(signer.Ephemeral())(t)
			had := []inventory.Enrolled{must(h.enrol(t, "a", key, nil))(t)}
			must(h.Check(t.Context(), h.identity(t, had[0]), now))(t)
			was, _ := h.Member("a")
			for len(had) < 3 {
				had = append(had, must(h.renew(t, key, had[len(had)-1]))(t))
			}
			h, _ = h.restored(t, was)
			holders := []inventory.Enrolled{had[tc.copied], had[2]}
			for turn := range 8 {
				who := (turn + tc.first) % 2
				out, err := h.renew(t, key, holders[who])
				if err != nil {
					if m, _ := h.Member("a"); m.Locked == "" || !fault.Is(err, fault.Denied) {
						t.Errorf("refused without a lock: %v", err)
					}
					return
				}
				holders[who] = out
			}
			t.Error("two holders renewed four times each")
		})
	}
}

// An older backup is no way out of what was decided after it: the audit log, which is
// taken from the bucket, still says it.
func TestARestoreUndoesNoDecision(t *testing.T) {
	for name, tc := range map[string]struct {
		decide func(t *testing.T, h house, key *signer.Signer, stale, newest inventory.Enrolled)
		want   string
	}{
		"revoked": {func(t *testing.T, h house, _ *signer.Signer, _, _ inventory.Enrolled) {
			if err := h.Revoke(t.Context(), "a", "root", "stolen", now); err != nil {
				t.Fatal(err)
			}
		}, "revoked"},
		"locked": {func(t *testing.T, h house, key *signer.Signer, stale, _ inventory.Enrolled) {
			if _, err := h.renew(t, key, stale); err == nil {
				t.Fatal("a copy renewed")
			}
		}, "locked"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, 1, nil)
			key := must(signer.Ephemeral())(t)
			e := must(h.enrol(t, "a", key, nil))(t)
			must(h.Check(t.Context(), h.identity(t, e), now))(t)
			was, _ := h.Member("a")
			newest := must(h.renew(t, key, must(h.renew(t, key, e))(t)))(t)
			tc.decide(t, h, key, e, newest)
			back, _ := h.restored(t, was)
			if err := back.Inventory.Restored(t.Context(), now); err != nil { // the log was taken from the bucket
				t.Fatal(err)
			}
			if m, _ := back.Member("a"); m.Locked == "" && !m.Revoked {
				t.Errorf("before anybody calls it is %+v", m)
			}
			lazy, _ := h.restored(t, was) // the start after it was interrupted
			for i := range 4 {
				back := []house{back, lazy}[i/2]
				if _, err := back.Check(t.Context(), back.identity(t, newest), now); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("it calls: %v", err)
				}
				if _, err := back.comeback(t, key, newest, now.Add(month)); !fault.Is(err, fault.Denied) {
					t.Errorf("it comes back: %v", err)
				}
			}
		})
	}
}

// An identity that was unlocked after the backup is the real member's: it comes back by
// its key, and the copy does not.
func TestARestoreKeepsAnUnlocking(t *testing.T) {
	for name, eager := range map[string]bool{"the log is taken from the bucket": true, "a start after that was interrupted": false} {
		t.Run(name, func(t *testing.T) {
			h := open(t, 1, nil)
			key := must(signer.Ephemeral())(t)
			e := must(h.enrol(t, "a", key, nil))(t)
			must(h.Check(t.Context(), h.identity(t, e), now))(t)
			was, _ := h.Member("a")
			newest := must(h.renew(t, key, must(h.renew(t, key, e))(t)))(t)
			if _, err := h.renew(t, key, e); err == nil {
				t.Fatal("a copy renewed")
			}
			if err := h.Unlock(t.Context(), "a", "root", api.UnlockRequest{Reason: "found"}, now); err != nil {
				t.Fatal(err)
			}
			back, _ := h.restored(t, was)
			if eager {
				if err := back.Inventory.Restored(t.Context(), now); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if _, err := back.Check(t.Context(), back.identity(t, newest), now); !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "unlocked") {
					t.Errorf("it calls: %v", err)
				}
			}
			again := must(back.comeback(t, key, newest, now))(t)
			must(back.Check(t.Context(), back.identity(t, again), now))(t)
			if _, err := back.comeback(t, key, e, now); !fault.Is(err, fault.Denied) {
				t.Errorf("the copy comes back: %v", err)
			}
			if m, _ := back.Member("a"); m.Locked == "" {
				t.Error("the copy was not found")
			}
		})
	}
}

// What the log says of certificates is known at the start: a copy of an older one finds
// the identity locked by its own call, before the real member was seen.
func TestARestoreKnowsTheNewestCertificate(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	must(h.Check(t.Context(), h.identity(t, e), now))(t)
	was, _ := h.Member("a")
	newest := must(h.renew(t, key, must(h.renew(t, key, e))(t)))(t)
	back, alarms := h.restored(t, was)
	if err := back.Inventory.Restored(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if m, _ := back.Member("a"); m.Generation != newest.Member.Generation || m.Certificate != newest.Member.Certificate {
		t.Errorf("it is of generation %d, want %d", m.Generation, newest.Member.Generation)
	}
	must(back.Check(t.Context(), back.identity(t, newest), now))(t)
	if len(*alarms) != 0 {
		t.Errorf("an honest member is an alarm: %q", *alarms)
	}
	if _, err := back.renew(t, key, e); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "copied") {
		t.Errorf("a copy from before the backup: %v", err)
	}
}

// Only the certificate itself proves anything: not a generation that is claimed, nor
// a certificate of another CA.
func TestNobodyClaimsToBeAhead(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	at := now.Add(month)
	own := must(identity.SelfSign("plant", key, month, now))(t)
	claim := h.answer(t, key, own.Raw, 9, at)
	if _, _, err := h.Comeback(t.Context(), claim, "", at); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("a certificate of its own: %v, want the lock", err)
	}
	if m, _ := h.Member("a"); m.Generation != e.Member.Generation {
		t.Errorf("it is of generation %d now", m.Generation)
	}
}
