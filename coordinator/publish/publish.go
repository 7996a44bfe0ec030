// Package publish puts what was decided where members find it: it signs the
// directive and the metadata around it, writes them to the bucket in TUF's
// order, the pack last, and wakes those who wait for it.
//
//	directive, stored ──▶ sign ──▶ signed bytes, stored ──▶ bucket ──▶ long polls, gossip
//
// The timestamp may be signed by a heartbeat too, at the same time, or by it alone.
// A newer timestamp over what was signed here is taken up, not fought over: see
// [repository.Repository.Follow]. One over anything else means that another
// coordinator decides for this fleet: a Conflict.
//
// Every arrow may be the last before a crash. [Open] finishes what was begun:
// the same bytes are written again, which changes nothing that is there already,
// and a directive that was never signed is signed.
package publish

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Store keeps signed bytes until they are in the bucket; see package store.
type Store interface {
	SavePublication(ctx context.Context, signed []byte) error
	Publication(ctx context.Context) ([]byte, error)
}

// Options are what a publisher needs.
type Options struct {
	Bucket      registry.Store
	Store       Store
	Root        []byte // a root.json that is trusted already
	Coordinator signature.Signer
	// Timestamp is nil when a heartbeat alone holds the timestamp's key: what is
	// signed here ends with the snapshot, and its pack is waited for.
	Timestamp signature.Signer
	// Await is how long Publish waits for the heartbeat's pack, then; default 10 s.
	Await time.Duration
	// Keys finds the next key once root names it; see [repository.Options].
	Keys      func(ctx context.Context, ids []string) (signature.Signer, error)
	Lifetimes repository.Lifetimes
	Reload    time.Duration // between looks for new roots and policies; default 1 min
	Logger    *slog.Logger
	// Devices is told, before members can know, which device CAs another policy
	// lists; nil: nobody. It must not call the publisher.
	Devices func(ctx context.Context, certificates []byte)
	// Tampered is told of each object that somebody else changed, before it is put
	// right; nil: nobody. It must not call the publisher.
	Tampered func(ctx context.Context, t Tampered) error
	// Announce is told of each new pack, once it is in the bucket; nil: nobody.
	Announce func(g fleet.Group, p Pack)
}

// Pack is a group's newest trust pack, as members can see it.
type Pack struct {
	Body     []byte
	ETag     string // strong, with its quotes
	Digest   fleet.Digest
	Signed   time.Time
	Expires  time.Time
	Sequence uint64 // of the directive in it
	Version  uint64 // of the timestamp in it: grows with every pack
}

// reloadEvery is how often roots and policies are looked for in the bucket, unless
// [Options] say otherwise.
const reloadEvery = time.Minute

// Publisher owns the fleet's TUF repository. It is safe for concurrent use;
// writers wait for each other.
type Publisher struct {
	o Options

	writing sync.Mutex // guards the following
	audit   Audit
	repo    *repository.Repository
	pending *pending           // signed, not wholly written
	seen    map[string]int64   // versions of roles that were in the bucket
	before  []repository.Write // to be written before the next signature
	untold  bool               // another root or policy is in force, and not everybody knows

	reloaded time.Time         // when new roots and policies were last looked for
	awaiting time.Time         // since when a snapshot waits for its timestamp; zero: none does
	lapsed   string            // see [repository.Publication]
	watched  time.Time         // when the bucket was last compared
	etags    map[string]string // of what lay there as it should, by key
	disowned fleet.Digest      // what lies in place of the next root, and that was told

	mended atomic.Uint64

	newest atomic.Pointer[repository.Repository] // repo, for who must not wait

	mu    sync.RWMutex // guards the following
	packs map[fleet.Group]Pack
	woken chan struct{} // closed when packs change

	clock atomic.Pointer[signature.Signer] // signs the time: the key that root names
}

// pending is a publication on its way to the bucket, as it is stored.
type pending struct {
	Writes   []repository.Write
	Packs    map[fleet.Group][]byte
	Sequence map[fleet.Group]uint64
	Version  uint64
	Issued   time.Time
	Expires  time.Time
	Seen     map[string]int64 `json:",omitempty"` // alone, when nothing is on its way

	saved bool // in the store
	known bool // to the repository: it was signed since the start
}

// Open finishes a publication that a crash interrupted, and opens the
// repository.
func Open(ctx context.Context, o Options) (*Publisher, error) {
	p := &Publisher{o: o, packs: map[fleet.Group]Pack{}, woken: make(chan struct{}), etags: map[string]string{}}
	raw, err := o.Store.Publication(ctx)
	if err != nil {
		return nil, err
	}
	if raw != nil {
		var q pending
		if err := json.Unmarshal(raw, &q); err != nil {
			return nil, fault.New(fault.Internal, "read interrupted publication", "", err)
		}
		q.saved = true
		if p.seen = q.Seen; len(q.Writes) > 0 {
			p.pending = &q
		}
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.open(ctx); err != nil || p.pending == nil {
		return p, err
	}
	if err := p.finish(ctx, time.Now()); err != nil && !fault.Is(err, fault.Conflict) {
		return nil, err
	}
	return p, p.open(ctx) // with what was finished
}

// open reads the repository from the bucket; the caller holds writing.
func (p *Publisher) open(ctx context.Context) error {
	repo, err := repository.Open(ctx, p.get, repository.Options{
		Root: p.o.Root, Coordinator: p.o.Coordinator, Timestamp: p.o.Timestamp,
		StampedElsewhere: p.o.Timestamp == nil, Lifetimes: p.o.Lifetimes, Keys: p.o.Keys, Seen: p.seen,
	})
	if err != nil {
		return err
	}
	p.repo = repo
	p.newest.Store(repo)
	p.takeClock()
	p.blind()
	return p.checkSeen()
}

// takeClock signs the time with the key that root names; the caller holds writing.
func (p *Publisher) takeClock() {
	key := p.repo.Coordinator()
	p.clock.Store(&key)
}

func (p *Publisher) get(ctx context.Context, key string) ([]byte, error) {
	body, _, err := p.o.Bucket.Get(ctx, key, "")
	return body, err
}

// Fleet is the fleet's name, as the policy says.
func (p *Publisher) Fleet() string { return p.repository().Fleet() }

// Root is the newest root.json.
func (p *Publisher) Root() []byte { return p.repository().Root() }

// DeviceCA is the certificates, in PEM, that the policy lists.
func (p *Publisher) DeviceCA() []byte { return p.repository().DeviceCA() }

// Teams is the publishers that the policy knows.
func (p *Publisher) Teams() []fleet.Team { return p.repository().Teams() }

// Listed is what the admitted publishers list.
func (p *Publisher) Listed() ([]trust.Entry, error) { return p.repository().Releases() }

// Revokes says why no member may run a release any more; nil when they may.
// It does not wait for writers.
func (p *Publisher) Revokes(rel fleet.Release) error { return p.newest.Load().Revokes(rel) }

func (p *Publisher) repository() *repository.Repository {
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.repo
}

// Directive is a group's newest directive in the bucket; ok is false when there
// is none.
func (p *Publisher) Directive(g fleet.Group) (d fleet.Directive, ok bool, err error) {
	return p.repository().Directive(g)
}

// Publish signs a directive and writes it. body is the directive's JSON, as it
// was stored. Doing it again is harmless. It returns what members will not run
// although the directive names it.
func (p *Publisher) Publish(ctx context.Context, body []byte, now time.Time) ([]trust.Refusal, error) {
	d, err := trust.ParseDirective(body)
	if err != nil {
		return nil, err
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.finish(ctx, now); err != nil {
		return nil, err
	}
	if cur, ok := p.Pack(d.Group); ok && cur.Sequence == d.Sequence {
		return nil, nil
	}
	if err := p.tell(ctx); err != nil {
		return nil, err
	}
	if err := p.prove(ctx, d.Group, body); err != nil {
		return nil, err
	}
	if p.o.Timestamp == nil {
		return p.publishAndWait(ctx, d, now)
	}
	pub, err := p.repo.Sign(d, now)
	if err != nil {
		return nil, err
	}
	return pub.Refused, p.write(ctx, pub, now)
}

// Refresh renews what is about to expire and publishes what was admitted. done
// is false when nothing was due. A root or policy in the bucket that is no good is
// an error, and keeps nothing from being renewed.
func (p *Publisher) Refresh(ctx context.Context, now time.Time) (done bool, refused []trust.Refusal, err error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.finish(ctx, now); err != nil {
		return false, nil, err
	}
	look, bad := !p.awaiting.IsZero(), error(nil)
	if now.Sub(p.reloaded) >= cmp.Or(p.o.Reload, reloadEvery) {
		if bad = p.reload(ctx); bad == nil {
			p.reloaded = now
		} else if p.untold {
			return false, nil, bad
		}
		look = true
	}
	if look {
		if err := p.look(ctx, now); err != nil {
			return false, nil, errors.Join(bad, err)
		}
	}
	bad = errors.Join(bad, p.watch(ctx, now))
	pub, due, err := p.repo.Refresh(now)
	if err != nil || !due {
		return false, nil, errors.Join(bad, err, p.overdue(now))
	}
	return true, pub.Refused, errors.Join(bad, p.write(ctx, pub, now))
}

// Admit takes up a publisher's role. record is called with what changed before
// members can see any of it; when it fails the admission is undone.
func (p *Publisher) Admit(ctx context.Context, team fleet.Team, now time.Time, record func(repository.Admission) error) (repository.Admission, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.finish(ctx, now); err != nil {
		return repository.Admission{}, err
	}
	if err := p.reload(ctx); err != nil {
		return repository.Admission{}, err
	}
	a, err := p.repo.Admit(ctx, team, now)
	if err != nil {
		return a, err
	}
	if err := p.vouch(ctx, &a); err != nil {
		a.Undo()
		return a, err
	}
	if err := record(a); err != nil {
		a.Undo()
		return a, err
	}
	p.before = append(p.before, a.Writes...)
	return a, nil
}

// write stores a publication and puts it into the bucket; the caller holds writing.
func (p *Publisher) write(ctx context.Context, pub repository.Publication, now time.Time) error {
	q := &pending{known: true}
	if err := p.fill(q, append(p.before, pub.Writes...), pub); err != nil {
		return err
	}
	if len(pub.Packs) == 0 && p.awaiting.IsZero() {
		p.awaiting = now
	}
	p.pending, p.before = q, nil
	return p.finish(ctx, now)
}

// fill makes q what there is to be written.
func (p *Publisher) fill(q *pending, writes []repository.Write, pub repository.Publication) error {
	q.Writes, q.Packs, q.Issued, q.Expires, q.Sequence = writes, pub.Packs, pub.Issued, pub.Expires, map[fleet.Group]uint64{}
	q.Version, q.saved = uint64(p.repo.Versions()["timestamp"]), false
	for g := range pub.Packs {
		d, _, err := p.repo.Directive(g)
		if err != nil {
			return err
		}
		q.Sequence[g] = d.Sequence
	}
	if len(pub.Packs) > 0 && p.lapsed != pub.Lapsed {
		p.lapsed = pub.Lapsed
		p.o.Logger.Error("packs are stale until the keepers of the role sign it anew", "role", pub.Lapsed)
	}
	return nil
}

// save keeps a publication before anything of it is in the bucket: half of one
// that nobody can finish is worse than none.
func (p *Publisher) save(ctx context.Context, q *pending) error {
	if q.saved {
		return nil
	}
	q.Seen = p.seen
	raw, err := json.Marshal(q)
	if err != nil {
		return fault.New(fault.Internal, "publish", "", err)
	}
	if err := p.o.Store.SavePublication(ctx, raw); err != nil {
		return err
	}
	q.saved = true
	return nil
}

// finish writes what is pending, if anything; the caller holds writing.
func (p *Publisher) finish(ctx context.Context, now time.Time) error {
	q := p.pending
	if q == nil {
		return nil
	}
	if err := p.save(ctx, q); err != nil {
		return err
	}
	yielded := 0
	for i := 0; i < len(q.Writes); {
		err := p.put(ctx, q.Writes[i])
		if rival, ok := errors.AsType[*overtaken](err); ok && q.known && yielded < maxYields {
			yielded++
			if err = p.yield(ctx, q, rival.timestamp, now); err == nil {
				i = 0 // all that is done already is found there
				continue
			}
		}
		if fault.Is(err, fault.Conflict) { // somebody else signed this version: theirs stand
			p.pending = nil
			return errors.Join(err, p.keepSeen(ctx), p.open(ctx))
		}
		if err != nil {
			return err
		}
		i++
	}
	p.pending = nil
	p.seen = p.repo.Versions()
	if err := p.keepSeen(ctx); err != nil {
		return err
	}
	if len(q.Packs) > 0 {
		p.awaiting = time.Time{}
		p.show(q)
	}
	return nil
}

// put writes one object. Who is overtaken at a mutable one is told by whom.
func (p *Publisher) put(ctx context.Context, w repository.Write) error {
	if !w.Mutable {
		_, err := p.o.Bucket.Create(ctx, w.Key, registry.BodyOf(w.Body))
		return err
	}
	for try := 1; ; try++ {
		had, etag, err := p.o.Bucket.Get(ctx, w.Key, "")
		switch {
		case fault.Is(err, fault.NotFound):
			had, etag = nil, ""
		case err != nil:
			return err
		case slices.Equal(had, w.Body):
			return nil
		case p.repo.Newer(had, w.Body):
			return &overtaken{key: w.Key, timestamp: repository.TimestampIn(had)}
		}
		if err := p.suspect(ctx, w.Key, had); err != nil {
			return err
		}
		_, err = p.o.Bucket.Swap(ctx, w.Key, w.Body, etag)
		if !fault.Is(err, fault.Conflict) || try == maxYields {
			return err
		}
	}
}

// show gives the new packs to those who ask and those who wait.
func (p *Publisher) show(q *pending) {
	p.mu.Lock()
	for g, body := range q.Packs {
		sum := fleet.DigestOf(body)
		p.packs[g] = Pack{
			Body: body, Digest: sum, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`,
			Signed: q.Issued, Expires: q.Expires, Sequence: q.Sequence[g], Version: q.Version,
		}
	}
	close(p.woken)
	p.woken = make(chan struct{})
	p.mu.Unlock()
	clear(p.etags)
	if p.o.Announce == nil {
		return
	}
	for g := range q.Packs {
		if pack, ok := p.Pack(g); ok {
			p.o.Announce(g, pack)
		}
	}
}

// Pack is a group's newest pack; ok is false when none was published since the
// start.
func (p *Publisher) Pack(g fleet.Group) (pack Pack, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	pack, ok = p.packs[g]
	return pack, ok
}

// Woken is closed when some pack changes; ask for it before [Publisher.Pack].
func (p *Publisher) Woken() <-chan struct{} {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.woken
}
