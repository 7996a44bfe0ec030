// Package beat keeps a fleet fresh while its coordinator is down, or whenever the
// timestamp's key is kept away from the coordinator. One beat reads the newest
// snapshot that the coordinator signed, verifies it from the pinned root on, signs
// the next timestamp if one is due, and makes the packs again.
//
//	schedule, or a new snapshot ──▶ read, verify ──▶ sign timestamp ──▶ timestamp.json, packs
//
// It promises:
//
//   - It decides nothing: it can make what the coordinator signed last visible, or
//     visible for longer, and no more. With its key alone nobody can make a member
//     run anything, nor go back.
//   - It is level-triggered: an event only says when to look. Two beats at once, or
//     a beat and the coordinator, cost one of them another look, and what members
//     see never goes back.
//   - Once what the coordinator signed has expired it signs nothing and says so.
package beat

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Options are what a beat needs.
type Options struct {
	Bucket registry.Store
	Pin    fleet.Digest     // of a root.json in the bucket
	Key    signature.Signer // of the timestamp role
	Life   time.Duration    // of a timestamp; default 24 h
	Logger *slog.Logger
}

// Result is what a beat did.
type Result struct {
	Timestamp int64         `json:"timestamp"` // version in the bucket now
	Snapshot  int64         `json:"snapshot"`  // version that it leads to
	Signed    bool          `json:"signed"`    // a timestamp was signed; false: none was due
	Packs     []fleet.Group `json:"packs"`     // groups whose packs were written
	Expires   time.Time     `json:"expires"`   // of the timestamp
	// Lapsed is the role, root or targets, whose own expiry makes members stale.
	Lapsed string `json:"lapsed,omitempty"`
}

// looks is how often a beat begins again when others write at the same time.
const looks = 5

// errOvertaken is returned when somebody else put something newer there.
var errOvertaken = errors.New("somebody else put a newer one there")

// Beat takes one look at the bucket and does what is due.
func Beat(ctx context.Context, o Options, now time.Time) (Result, error) {
	root, err := pinned(ctx, o.Bucket, o.Pin)
	if err != nil {
		return Result{}, err
	}
	if err := registry.CheckClock(ctx, o.Bucket, trust.MetadataKey("timestamp", 0), now); err != nil {
		return Result{}, err
	}
	for look := 1; ; look++ {
		res, err := beat(ctx, o, root, now)
		if !errors.Is(err, errOvertaken) && !fault.Is(err, fault.Conflict) {
			return res, err
		}
		if look == looks {
			return res, fault.New(fault.Transient, "beat", "timestamp", err).
				WithHint("others write to the bucket without a pause; the next beat tries again")
		}
		o.Logger.Info("somebody else was faster; looking again", "err", err)
	}
}

func beat(ctx context.Context, o Options, root []byte, now time.Time) (Result, error) {
	get := func(ctx context.Context, key string) ([]byte, error) {
		body, _, err := o.Bucket.Get(ctx, key, "")
		return body, err
	}
	repo, err := repository.Open(ctx, get, repository.Options{
		Root: root, Timestamp: o.Key, Lifetimes: repository.Lifetimes{Timestamp: o.Life},
	})
	if err != nil {
		return Result{}, err
	}
	pub, signed, err := repo.Stamp(now)
	if err != nil {
		return Result{}, err
	}
	v := repo.Versions()
	res := Result{
		Timestamp: v["timestamp"], Snapshot: v["snapshot"], Signed: signed, Packs: []fleet.Group{},
		Expires: pub.Expires, Lapsed: pub.Lapsed,
	}
	for _, w := range pub.Writes {
		wrote, err := o.put(ctx, repo, root, w, now)
		if err != nil {
			return res, err
		}
		for g := range pub.Packs {
			if wrote && g.PackKey() == w.Key {
				res.Packs = append(res.Packs, g)
			}
		}
	}
	return res, nil
}

// put replaces an object, unless it is there or something newer is.
func (o Options) put(ctx context.Context, repo *repository.Repository, root []byte, w repository.Write, now time.Time) (wrote bool, err error) {
	had, etag, err := o.Bucket.Get(ctx, w.Key, "")
	switch {
	case fault.Is(err, fault.NotFound):
		etag = ""
	case err != nil:
		return false, err
	case slices.Equal(had, w.Body):
		return false, nil
	case repo.Newer(had, w.Body):
		return false, errOvertaken
	case sameNews(had, w.Body, root, now):
		return false, nil
	}
	_, err = o.Bucket.Swap(ctx, w.Key, w.Body, etag)
	return err == nil, err
}

// sameNews reports whether a pack is as good as the one that was made: it has the
// same timestamp and verifies.
func sameNews(had, next, root []byte, now time.Time) bool {
	a, err := trust.DecodePack(had)
	b, nextErr := trust.DecodePack(next)
	if err != nil || nextErr != nil || !slices.Equal(a.Timestamp, b.Timestamp) {
		return false
	}
	d, err := trust.ParseDirective(b.Directive)
	if err != nil {
		return false
	}
	_, _, err = trust.Verify(had, trust.State{Root: root}, fleet.Facts{Group: d.Group}, now)
	return err == nil
}

// pinned finds the root that the pin names.
func pinned(ctx context.Context, b registry.Reader, pin fleet.Digest) ([]byte, error) {
	for version := int64(1); ; version++ {
		body, _, err := b.Get(ctx, trust.MetadataKey("root", version), "")
		if fault.Is(err, fault.NotFound) {
			return nil, fault.Newf(fault.Untrusted, "open fleet", pin.Short(), "none of the bucket's %d roots has the digest %s", version-1, pin).
				WithHint("check bucket and prefix, and MODELFLEET_ROOT: the digest in fleet.json")
		}
		if err != nil {
			return nil, err
		}
		if fleet.DigestOf(body) == pin {
			return body, nil
		}
	}
}

// Notified reads what woke the function: from names it for the log, and relevant
// is false for an event that says of nothing but objects a beat does not depend
// on, such as its own writes.
func Notified(event json.RawMessage) (from string, relevant bool) {
	type object struct {
		Object struct {
			Key string `json:"key"`
		} `json:"object"`
	}
	var e struct {
		Source  string          `json:"source"` // EventBridge's
		Detail  json.RawMessage `json:"detail"` // EventBridge's; a schedule's may be anything
		Records []struct {
			S3 object `json:"s3"`
		} `json:"Records"`
	}
	if err := json.Unmarshal(event, &e); err != nil {
		return "unknown event", true // a person's, perhaps; looking does no harm
	}
	var keys []string
	for _, r := range e.Records {
		keys = append(keys, r.S3.Object.Key)
	}
	var d object
	if json.Unmarshal(e.Detail, &d) == nil && d.Object.Key != "" {
		keys = append(keys, d.Object.Key)
	}
	switch {
	case len(keys) > 0:
		return "bucket", slices.ContainsFunc(keys, isSnapshot)
	case e.Source != "":
		return e.Source, true
	}
	return "call", true
}
