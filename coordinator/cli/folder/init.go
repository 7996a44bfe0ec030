package folder

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/strict"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// InitOptions says which fleet to make.
type InitOptions struct {
	Dir   string
	Fleet api.FleetFile // without Root; its Keys are used instead of making some
	Teams []Team
	Now   time.Time

	// Root are the custodians, whose keys are elsewhere; none: one key is made
	// here, and signs at once. Threshold of them must sign; default more than half.
	Root      []ceremony.Holding
	Threshold int
	// Policy are the policy's keys; none: those of root.
	Policy          []ceremony.Holding
	PolicyThreshold int
	// Stamps are further keys of the timestamp, a heartbeat's.
	Stamps []ceremony.Holding
}

// Team is a publisher. Without keys one is made here.
type Team struct {
	Name      fleet.Team
	Keys      []ceremony.Holding
	Threshold int
}

// Made is what Init made, or found.
type Made struct {
	Folder
	Keys    []string // made now
	Objects int      // put into the bucket now
	// Ceremony waits for signatures, in File; nil when the fleet is made.
	Ceremony *ceremony.Ceremony
	File     string
	Begun    bool // the ceremony was made now
	// Taken are signatures that were in none of the copies that Finish was given,
	// and were taken from the folder: "ana (1f…) on root, from orchard/pending.json".
	Taken []string
}

const opInit = "make fleet"

// Init makes keys, root and policy of a fleet and puts them into its bucket. It
// makes nothing twice: after a crash, or without one, it goes on from what is
// there. Two files are turning points. From pending.json on, root and policy are
// never made anew: they wait for signatures. From fleet.json on they are whole;
// until then nothing is in the bucket.
func Init(ctx context.Context, o InitOptions) (Made, error) {
	if path, ok := strings.CutPrefix(o.Fleet.Bucket, folderScheme); ok {
		abs, err := filepath.Abs(path) // the coordinator runs elsewhere
		if err != nil {
			return Made{}, fault.New(fault.Invalid, opInit, o.Fleet.Bucket, err)
		}
		o.Fleet.Bucket = folderScheme + abs
	}
	m := Made{Folder: Folder{Dir: o.Dir, FleetFile: o.Fleet}}
	old, err := Open(o.Dir)
	switch {
	case err == nil:
		if err := old.same(o.Fleet); err != nil {
			return m, err
		}
		m.Folder = old
		return m, m.put(ctx)
	case !fault.Is(err, fault.NotFound):
		return m, err
	}
	waiting, err := m.pending()
	switch {
	case err == nil:
		was := Folder{Dir: o.Dir, FleetFile: waiting.Fleet}
		if err := was.same(o.Fleet); err != nil {
			return m, err
		}
	case fault.Is(err, fault.NotFound):
		if waiting, err = m.create(ctx, o); err != nil {
			return m, err
		}
		m.Begun = true
	default:
		return m, err
	}
	return m, m.finish(ctx, waiting, nil)
}

// Finish goes on with a fleet that waits for signatures: those in the ceremony's
// file in the folder, and in further copies of it.
func Finish(ctx context.Context, dir string, copies ...*ceremony.Ceremony) (Made, error) {
	m := Made{Folder: Folder{Dir: dir}}
	if old, err := Open(dir); err == nil {
		m.Folder = old
		if err := old.began(copies); err != nil {
			return m, err
		}
		return m, m.put(ctx)
	}
	waiting, err := m.pending()
	if err != nil {
		return m, err
	}
	m.FleetFile = waiting.Fleet
	return m, m.finish(ctx, waiting, copies)
}

// began refuses copies that ask for something else than what the fleet began with.
func (f Folder) began(copies []*ceremony.Ceremony) error {
	writes, err := f.kept()
	if err != nil {
		return err
	}
	var first ceremony.Metadata
	for _, w := range writes {
		switch w.Key {
		case trust.MetadataKey(metadata.ROOT, 1):
			first.Root = w.Body
		case trust.MetadataKey(metadata.TARGETS, 1):
			first.Policy = w.Body
		}
	}
	for _, c := range copies {
		if !c.Is(first) {
			return fault.Newf(fault.Conflict, opPublish, c.File(), "fleet %s is there already, and did not begin with this: its words are %s", f.Name, c.Words()).
				WithHint("nothing was changed; `modelfleet key status --dir %s` shows what is in force", f.Dir)
		}
	}
	return nil
}

// signatures are those in the ceremonies that fit, as "ana (1f…) on root".
func signatures(cs ...*ceremony.Ceremony) map[string]bool {
	out := map[string]bool{}
	for _, c := range cs {
		for _, p := range c.Parties() {
			for _, k := range p.Keys {
				if k.Signed {
					out[k.String()+" on "+p.File] = true
				}
			}
		}
	}
	return out
}

// merge puts together the ceremony that waits, the folder's copy of it and those
// that were brought, and notes what the folder had besides.
func (m *Made) merge(c *ceremony.Ceremony, brought []*ceremony.Ceremony) error {
	from := map[string]string{}
	for text := range signatures(c) {
		from[text] = filepath.Join(m.Dir, pendingName)
	}
	c.Call(m.File)
	if data, err := os.ReadFile(m.File); err == nil {
		here, err := ceremony.Parse(m.File, data)
		if err == nil {
			err = here.Sound()
		}
		if err == nil {
			err = c.Merge(m.File, here)
		}
		if err != nil {
			return err
		}
		for text := range signatures(here) {
			from[text] = cmp.Or(from[text], m.File)
		}
	}
	for _, b := range brought {
		if err := c.Merge(b.File(), b); err != nil {
			return err
		}
	}
	have := signatures(brought...)
	for _, text := range slices.Sorted(maps.Keys(from)) {
		if len(brought) > 0 && !have[text] {
			m.Taken = append(m.Taken, text+", from "+from[text])
		}
	}
	return nil
}

// waiting is a fleet that waits for signatures.
type waiting struct {
	Fleet    api.FleetFile      `json:"fleet"` // without Root
	Ceremony *ceremony.Ceremony `json:"-"`
	Raw      json.RawMessage    `json:"ceremony"`
}

// pendingName is the file of a fleet that waits for signatures. The ceremony in it
// is ours: of copies that come back only signatures are taken.
const pendingName = "pending.json"

func (f Folder) pending() (w waiting, err error) {
	path := filepath.Join(f.Dir, pendingName)
	data, err := os.ReadFile(path)
	if err != nil {
		return w, fault.New(fault.NotFound, "read unfinished fleet", path, err).WithHint("make a fleet with: modelfleet init")
	}
	if err := strict.Decode(data, &w); err != nil {
		return w, fault.New(fault.Invalid, "read unfinished fleet", path, err).WithHint("remove the folder, and begin again: nothing is in the bucket yet")
	}
	w.Ceremony, err = ceremony.Parse(path, w.Raw)
	return w, err
}

// same refuses to take a folder for another fleet's.
func (f Folder) same(want api.FleetFile) error {
	have := f.FleetFile
	if have.Name != want.Name || have.Bucket != want.Bucket || have.Endpoint != want.Endpoint || have.Region != want.Region || have.Prefix != want.Prefix {
		return fault.Newf(fault.Conflict, opInit, want.Name, "%s is the folder of fleet %s in bucket %s", f.Dir, have.Name, have.Bucket).
			WithHint("choose another folder with --dir, or repeat the options it was made with")
	}
	return nil
}

// finish puts a fleet into its bucket once enough have signed, and otherwise
// writes the file that custodians pass on.
func (m *Made) finish(ctx context.Context, w waiting, brought []*ceremony.Ceremony) error {
	m.Ceremony, m.File = w.Ceremony, filepath.Join(m.Dir, w.Ceremony.Name())
	if err := m.merge(w.Ceremony, brought); err != nil {
		return err
	}
	if missing := w.Ceremony.Complete(); missing != nil {
		if err := Save(m.File, w.Ceremony); err != nil || m.Begun {
			return err
		}
		return missing
	}
	store, err := OpenBucket(ctx, m.FleetFile)
	if err != nil {
		return err
	}
	if err := m.vacant(ctx, store); err != nil {
		return err
	}
	writes, err := w.Ceremony.Writes()
	if err != nil {
		return err
	}
	if err := m.keep(writes); err != nil {
		return err
	}
	m.Root = fleet.DigestOf(w.Ceremony.Next.Root)
	if err := m.save(); err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(m.Dir, pendingName), m.File} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fault.New(fault.Internal, "remove", path, err)
		}
	}
	m.Ceremony, m.File = nil, ""
	return m.putInto(ctx, store)
}

// put puts into the bucket what is not there.
func (m *Made) put(ctx context.Context) error {
	store, err := OpenBucket(ctx, m.FleetFile)
	if err != nil {
		return err
	}
	return m.putInto(ctx, store)
}

func (m *Made) putInto(ctx context.Context, store registry.Store) error {
	writes, err := m.kept()
	if err != nil {
		return err
	}
	if m.Objects, err = Put(ctx, store, writes); err != nil {
		return fault.New(fault.KindOf(err), opInit, m.Name, err).WithHint("the bucket already holds another fleet: choose another bucket or --prefix")
	}
	return nil
}

// vacant refuses a bucket that holds a fleet.
func (m *Made) vacant(ctx context.Context, store registry.Reader) error {
	_, err := m.ReadRoot(ctx, store)
	if err == nil || fault.Is(err, fault.Untrusted) {
		return fault.Newf(fault.Conflict, opInit, m.Name, "bucket %s already holds a fleet's root", m.Bucket).
			WithHint("choose another bucket or --prefix, or the folder that this fleet was made in")
	}
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// save writes fleet.json.
func (f Folder) save() error {
	text, err := f.FleetFile.Encode()
	if err != nil {
		return fault.New(fault.Internal, "write", api.FleetFileName, err)
	}
	return cas.WriteFile(filepath.Join(f.Dir, api.FleetFileName), text, 0o644)
}

// Save writes a ceremony's file.
func Save(path string, c *ceremony.Ceremony) error {
	raw, err := c.Encode()
	if err != nil {
		return err
	}
	return cas.WriteFile(path, raw, 0o644)
}

// order is the file that lists what was kept, in the order of writing.
const order = "order.json"

// keep stores writes in the folder: they are signed and cannot be made the same again.
func (f Folder) keep(writes []repository.Write) error {
	var keys []string
	for _, w := range writes {
		path := filepath.Join(f.Dir, "repository", filepath.FromSlash(w.Key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fault.New(fault.Denied, "make folder", filepath.Dir(path), err)
		}
		if err := cas.WriteFile(path, w.Body, 0o644); err != nil {
			return err
		}
		keys = append(keys, w.Key)
	}
	text, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "write", order, err)
	}
	return cas.WriteFile(filepath.Join(f.Dir, "repository", order), append(text, '\n'), 0o644)
}

// kept reads back what keep stored.
func (f Folder) kept() ([]repository.Write, error) {
	root, err := os.OpenRoot(filepath.Join(f.Dir, "repository"))
	if err != nil {
		return nil, fault.New(fault.NotFound, "read first metadata", f.Dir, err)
	}
	defer root.Close()
	text, err := root.ReadFile(order)
	if err != nil {
		return nil, fault.New(fault.NotFound, "read first metadata", f.Dir, err)
	}
	var keys []string
	if err := json.Unmarshal(text, &keys); err != nil {
		return nil, fault.New(fault.Invalid, "read first metadata", f.Dir, err)
	}
	writes := make([]repository.Write, 0, len(keys))
	for _, key := range keys {
		body, err := root.ReadFile(filepath.FromSlash(key))
		if err != nil {
			return nil, fault.New(fault.NotFound, "read first metadata", key, err)
		}
		writes = append(writes, repository.Write{Key: key, Body: body})
	}
	return writes, nil
}
