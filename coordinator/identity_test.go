package coordinator_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Who may do one thing may not, by the same proof, do another.
func TestAnIdentityIsGoodForItsOwnCallsOnly(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(9)[0] // dev-08 is in another cell
	forDevices := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Uses: 5}))(t).Text
	forFunctions := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Uses: 5, Kind: fleet.Function}))(t).Text
	admin := must(api.LoadContext(filepath.Join(w.opts.Data, "admin.context.json")))(t).Token
	bearer := func(token string) *api.Client {
		c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: token, Attempts: 1}))(t)
		t.Cleanup(c.Close)
		return c
	}
	batch := must(d.codec.Encode(d.messages(time.Now())))(t)
	rows := func(c *api.Client, cell string) error {
		_, err := c.SendRows(t.Context(), cell, batch, "")
		return err
	}
	renew := func(c *api.Client) error {
		_, err := c.Renew(t.Context(), api.RenewRequest{CSR: csr(t, d.key), Generation: 1})
		return err
	}
	presign := func(c *api.Client) error {
		_, err := c.Presign(t.Context(), []string{"models/x"})
		return err
	}
	list := func(c *api.Client) error {
		_, err := c.Members(t.Context(), fleet.Selector{})
		return err
	}
	enrol := func(token string, kind fleet.Kind) error {
		join := must(trust.ParseJoinToken(token))(t)
		_, err := bearer("").Enrol(t.Context(), api.EnrolRequest{
			TokenID: join.ID, Secret: join.SecretText(), Member: "other", Kind: kind, CSR: csr(t, must(signer.Ephemeral())(t)),
		})
		return err
	}
	for name, err := range map[string]error{
		"a device token sends rows":           rows(bearer(forDevices), "-"),
		"a device token presigns":             presign(bearer(forDevices)),
		"a device token lists members":        list(bearer(forDevices)),
		"a device token renews":               renew(bearer(forDevices)),
		"a function token lists members":      list(bearer(forFunctions)),
		"a function token renews":             renew(bearer(forFunctions)),
		"a function token enrols a device":    enrol(forFunctions, fleet.Device),
		"a device token enrols a function":    enrol(forDevices, fleet.Function),
		"an operator sends rows":              rows(bearer(admin), "-"),
		"an operator presigns":                presign(bearer(admin)),
		"an operator renews":                  renew(bearer(admin)),
		"a member lists members":              list(d.client),
		"a member reports for another's cell": rows(d.client, "site1/0"),
	} {
		if !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v, want Denied", name, err)
		}
	}
	ok(t, rows(d.client, d.cell.ID))
	ok(t, rows(bearer(forFunctions), "-")) // rows are signed: who brings them does not matter
	if _, err := w.admin.CreateOperator(t.Context(), api.OperatorRequest{Name: "coordinator", Role: api.Viewer}); !fault.Is(err, fault.Invalid) {
		t.Errorf("an operator passes for the coordinator: %v", err)
	}
}

// A coordinator goes on with a backup of its data folder from before a member renewed:
// nobody is locked for it.
func TestAMemberThatRenewedSinceTheBackupGoesOn(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(1)[0]
	ok(t, w.stop())
	db := filepath.Join(w.opts.Data, "coordinator.db")
	backup := must(os.ReadFile(db))(t)
	w.start()
	d.client = d.dial()
	r := must(d.client.Renew(t.Context(), api.RenewRequest{CSR: csr(t, d.key), Generation: 1}))(t)
	d.cert = r.Certificate
	ok(t, w.stop())
	ok(t, os.WriteFile(db, backup, 0o600))
	for _, f := range must(filepath.Glob(db + "-*"))(t) {
		ok(t, os.Remove(f))
	}
	w.start()
	d.client = d.dial()
	must(d.client.Renew(t.Context(), api.RenewRequest{CSR: csr(t, d.key), Generation: r.Generation}))(t)
	if m := must(w.admin.Member(t.Context(), d.facts.ID))(t); m.Locked != "" {
		t.Errorf("locked: %s", m.Locked)
	}
}
