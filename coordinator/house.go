package coordinator

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/desk"
	"github.com/modelfleet/modelfleet/coordinator/httpapi"
	"github.com/modelfleet/modelfleet/coordinator/iam"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/coordinator/store/sqlite"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// house is a running coordinator's parts.
type house struct {
	o        Options
	m        material
	log      *slog.Logger
	listener net.Listener
	store    *sqlite.Store
	bucket   registry.Store
	presign  httpapi.Presigner
	events   *desk.Events
	wake     chan struct{}

	audit     *audit.Log
	ca        *ca.CA
	devices   devices  // what ca is made of
	pins      []string // of the listener's key and the next
	inventory *inventory.Inventory
	intake    *intake.Intake
	publisher *publish.Publisher
	desk      *desk.Desk
	issuer    *oidc.Issuer // nil: people sign in by token only
	cell      *cell        // nil when no cell was joined
	loop      *loop
	tls       tls.Certificate
	address   Address
}

// furnish builds the parts, in the order in which they need each other.
func (h *house) furnish(ctx context.Context) (err error) {
	if err := h.openBucket(ctx); err != nil {
		return err
	}
	if err := h.openTrust(ctx); err != nil {
		return err
	}
	h.inventory, err = inventory.New(ctx, inventory.Options{
		Store: h.store, CA: h.ca, Logger: h.log, CellGrace: h.o.CellGrace, Alarm: h.alarm, Role: iam.Verifier{Audience: h.m.file.Root.String()}.Role,
	})
	if err != nil {
		return err
	}
	h.intake, err = intake.New(ctx, intake.Options{
		Fleet: h.m.file.Name, Store: h.store, Directory: h.inventory, Logger: h.log, Report: h.o.Report, Idle: h.o.Idle, Changed: h.changed,
		Witnessed: h.compareRow,
	})
	if err != nil {
		return err
	}
	if err := h.openAudit(ctx); err != nil {
		return err
	}
	if err := h.openListener(ctx); err != nil {
		return err
	}
	if h.issuer, err = h.openIssuer(); err != nil {
		return err
	}
	h.desk, err = desk.New(ctx, desk.Options{
		Fleet: h.m.file.Name, URL: h.address.URL, Pin: h.pin(), Root: h.m.root, Store: h.store, Inventory: h.inventory,
		Intake: h.intake, Publisher: h.publisher, Events: h.events, Issuer: h.issuer, Wake: h.poke, Logger: h.log, Version: h.o.Version,
		Session: h.o.Session, Idle: h.o.SessionIdle,
	})
	if err != nil {
		return err
	}
	if err := h.bootstrap(ctx); err != nil {
		return err
	}
	if err := h.desk.Reconsider(ctx); err != nil { // the -oidc file may be another than before
		return err
	}
	h.inventory.OnChange(h.memberChanged)
	h.loop = newLoop(h)
	return h.desk.Catchup(ctx)
}

// openTrust opens the fleet's repository, and the device CA that its policy lists.
func (h *house) openTrust(ctx context.Context) (err error) {
	h.publisher, err = publish.Open(ctx, publish.Options{
		Bucket: h.bucket, Store: h.store, Root: h.m.root, Coordinator: h.m.key, Timestamp: h.m.stamp(), Await: h.o.Await,
		Lifetimes: h.o.Lifetimes, Reload: h.o.Reload, Devices: h.devicesListed, Tampered: h.tampered,
		Logger: h.log, Announce: h.announce, Keys: h.nextKey,
	})
	if err != nil {
		return err
	}
	if got := h.publisher.Fleet(); got != h.m.file.Name {
		return fault.Newf(fault.Untrusted, "open fleet", h.m.file.Name, "the bucket holds fleet %s", got).
			WithHint("check bucket and prefix in fleet.json")
	}
	h.devices.fleet, h.devices.folder, h.devices.refs, h.devices.opened = h.m.file.Name, h.o.Fleet, h.m.caRefs, map[string]crypto.Signer{}
	return h.takeDevices(ctx, h.publisher.DeviceCA())
}

// alarm tells people of a member that they should look at.
func (h *house) alarm(id fleet.MemberID, text string) {
	h.events.Publish(api.Event{At: time.Now().UTC(), Kind: "alarm", Subject: string(id), Text: text})
}

// dirScheme marks a bucket that is a folder.
const dirScheme = "dir:"

func (h *house) openBucket(ctx context.Context) error {
	f := h.m.file
	name := or(h.o.Bucket, f.Bucket)
	switch path, isDir := strings.CutPrefix(name, dirScheme); {
	case h.o.Store != nil:
		h.bucket = h.o.Store
	case isDir:
		b, err := dir.Open(path)
		if err != nil {
			return err
		}
		h.bucket = b
	default:
		b, err := s3.Open(ctx, s3.Options{
			Bucket: name, Prefix: or(h.o.Prefix, f.Prefix), Endpoint: or(h.o.Endpoint, f.Endpoint), Region: or(h.o.Region, f.Region),
			URLProfile: h.o.URLProfile,
		})
		if err != nil {
			return err
		}
		if err := b.Check(ctx); err != nil {
			return err
		}
		h.bucket, h.presign = b, b
	}
	return h.findRoot(ctx)
}

// findRoot looks in the bucket for the root that the fleet's file pins.
func (h *house) findRoot(ctx context.Context) error {
	for version := int64(1); ; version++ {
		key := trust.MetadataKey("root", version)
		b, _, err := h.bucket.Get(ctx, key, "")
		if fault.Is(err, fault.NotFound) {
			return fault.Newf(fault.Untrusted, "open fleet", h.m.file.Name, "no root in the bucket has the digest %s that fleet.json pins", h.m.file.Root.Short()).
				WithHint("check bucket and prefix in fleet.json, or put what `modelfleet init` made there again")
		}
		if err != nil {
			return err
		}
		if fleet.DigestOf(b) == h.m.file.Root {
			h.m.root = b
			return nil
		}
	}
}

func (h *house) pin() fleet.Digest { return sha256.Sum256(h.tls.Leaf.RawSubjectPublicKeyInfo) }

// contextFile is where the first admin's context lies in the data folder.
const contextFile = "admin.context.json"

// bootstrap makes the first admin, and keeps its context file up to date with
// where the coordinator is.
func (h *house) bootstrap(ctx context.Context) error {
	path := filepath.Join(h.o.Data, contextFile)
	c, err := api.LoadContext(path)
	known := err == nil
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	ops, err := h.store.Operators(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(ops) == 0:
		op, err := h.desk.CreateOperator(ctx, api.OperatorToken{Name: audit.Coordinator, Role: api.Admin}, api.OperatorRequest{Name: "admin", Role: api.Admin})
		if err != nil {
			return err
		}
		c.Token = op.Text
		h.log.Info("first admin created", "context", path)
	case !known:
		return nil // somebody took the file away, as one should
	}
	was := c
	c.Fleet, c.URL, c.Pin = h.m.file.Name, h.address.URL, h.address.Pin
	if known && c == was {
		return nil
	}
	b, err := c.Encode()
	if err != nil {
		return fault.New(fault.Internal, "write context", path, err)
	}
	return cas.WriteFile(path, b, 0o600)
}

// openIssuer reads where people sign in. The issuer itself is asked when somebody
// does: one that is away keeps no coordinator from starting.
func (h *house) openIssuer() (*oidc.Issuer, error) {
	if h.o.OIDC == "" {
		return nil, nil
	}
	conf, err := oidc.LoadConfig(h.o.OIDC)
	if err != nil {
		return nil, err
	}
	return oidc.New(oidc.Options{Config: conf, Path: h.o.OIDC})
}

// keepRoles takes up what changes in the -oidc file, as often as roots and policies.
func (h *house) keepRoles(ctx context.Context) error {
	if h.issuer == nil {
		return nil
	}
	t := time.NewTicker(or(h.o.Reload, time.Minute))
	defer t.Stop()
	due := false // sessions and approvals have to be looked at
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		was := h.issuer.Trouble()
		changed, err := h.issuer.Reread()
		if err != nil && (was == nil || was.Error() != err.Error()) {
			h.log.Error("the -oidc file is not taken up; the roles before it are in force", "err", err, "hint", fault.Hint(err))
		}
		if changed {
			h.log.Info("roles of the -oidc file taken up", "path", h.o.OIDC)
		}
		if due = due || changed; !due {
			continue
		}
		if err := h.desk.Reconsider(ctx); err == nil {
			due = false
		} else if ctx.Err() == nil {
			h.log.Error("roles are taken up, and who lost theirs is not signed out yet", "err", err)
		}
	}
}

// sessionKey seals the dashboard's cookies of sign-ins under way. One that cannot
// be used is made anew: it costs those a second try, not the fleet its coordinator.
func (h *house) sessionKey() ([]byte, error) {
	path := filepath.Join(h.o.Data, "session.key")
	b, err := os.ReadFile(path)
	switch {
	case err == nil && len(b) == 32:
		return b, nil
	case err == nil:
		err = fmt.Errorf("it has %d bytes, want 32", len(b))
		fallthrough
	case !errors.Is(err, fs.ErrNotExist):
		h.log.Warn("session key is made anew; who is signing in to the dashboard just now must begin again", "path", path, "err", err)
	}
	b = make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return nil, fault.New(fault.Internal, "make session key", path, err)
	}
	return b, cas.WriteFile(path, b, 0o600)
}
