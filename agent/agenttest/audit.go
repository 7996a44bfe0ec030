package agenttest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// NewAudited is [New] with an audit log that the policy lists. A test may put
// another history in its place.
func NewAudited(t testing.TB) *Fleet {
	t.Helper()
	log := trusttest.NewLog(t, FleetName)
	f := newFleet(t, log.Key)
	f.Audit = log
	return f
}

// prove gives the repository the proof that a directive is in the audit log.
func (f *Fleet) prove(d fleet.Directive) {
	f.t.Helper()
	if f.Audit == nil {
		return
	}
	body, err := repository.DirectiveBytes(d)
	if err != nil {
		f.t.Fatal(err)
	}
	proof, err := json.Marshal(f.Audit.Prove(d.Group, d.Sequence, fleet.DigestOf(body), d.Issued))
	if err != nil {
		f.t.Fatal(err)
	}
	f.repo.Prove(fleet.DigestOf(body), proof)
}

// witnessed takes checkpoints that a member cannot make agree.
func (c *Coordinator) witnessed(r *http.Request, _ fleet.MemberID) (any, error) {
	var w api.AuditWitness
	if err := read(r, &w); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, w.Notes...)
	return struct{}{}, nil
}

// Witnessed are the checkpoints that members handed over.
func (c *Coordinator) Witnessed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.notes...)
}

// consistency proves that an earlier log is the beginning of the newest.
func (c *Coordinator) consistency(r *http.Request, _ fleet.MemberID) (any, error) {
	from, err := strconv.ParseUint(r.FormValue("from"), 10, 62)
	if err != nil {
		return nil, fault.New(fault.Invalid, "prove consistency", "from", err)
	}
	to, err := strconv.ParseUint(r.FormValue("to"), 10, 62)
	if err != nil || to != c.f.Audit.Size() {
		return nil, fault.Newf(fault.Invalid, "prove consistency", "to", "the log has %d entries", c.f.Audit.Size())
	}
	return api.AuditConsistency{From: from, To: to, Root: c.f.Audit.RootOf(from), Path: c.f.Audit.Consistency(from)}, nil
}

// Neighbour is a member of the cell that says it was shown a checkpoint. It joins
// by seed and leaves with the test.
func (c *Coordinator) Neighbour(id fleet.MemberID, seed, checkpoint string) {
	t := c.f.t
	t.Helper()
	key := c.f.key()
	cert, err := c.f.ca.Issue(fleet.Device, id, key.Public(), time.Hour, 1)
	if err != nil {
		t.Fatal(err)
	}
	cell := c.cellOf()
	pool, err := gossip.Open(gossip.Options{
		Fleet: FleetName, Cell: cell.ID, Member: id, Signer: key, Certificate: cert,
		Identify: func(der []byte) (gossip.Identity, error) {
			if !bytes.Equal(der, cert) {
				return gossip.Identity{}, fault.Newf(fault.Untrusted, "identify", "", "nobody is known here")
			}
			return gossip.Identity{Member: id, Key: key.ECDSA()}, nil
		},
		Keys: [][]byte{cell.Key}, Bind: "127.0.0.1:0", Seeds: []string{seed}, Timing: gossip.Timing{PushPull: 200 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	pool.SetCheckpoint(checkpoint)
	t.Cleanup(func() { pool.Close() })
}
