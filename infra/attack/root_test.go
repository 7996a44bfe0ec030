package attack_test

import (
	"crypto"
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// roots makes the next versions of root, each with another key, the first after
// from signed by its key.
func roots(t *testing.T, from []byte, key *signer.Signer, n int) (made [][]byte) {
	t.Helper()
	for range n {
		next := ephemeral(t)
		root, whole, err := repository.NextRoot(from, repository.RootChange{Root: []crypto.PublicKey{next.Public()}}, time.Now(), repository.Lifetimes{}, key, next)
		if err != nil || !whole {
			t.Fatal(whole, err)
		}
		made, from, key = append(made, root), root, next
	}
	return made
}

// Root changes under a device's feet: three times while it is off; by a chain with
// a link missing; by keys that nobody named.
func TestRootRotatedUnderTheMembersFeet(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	first := f.newest(metadata.ROOT)
	thief := ephemeral(t)
	usurped := load[metadata.RootType](t, roots(t, first, f.key("root"), 1)[0])
	usurped.Signatures = nil
	_, err := usurped.Sign(thief)
	sure(t, err)
	stolen, err := usurped.ToBytes(false)
	sure(t, err)
	alone, _, err := repository.NextRoot(first, repository.RootChange{Root: []crypto.PublicKey{thief.Public()}}, time.Now(), repository.Lifetimes{}, signature.Signer(thief))
	sure(t, err)
	chain := roots(t, first, f.key("root"), 3)
	for _, list := range [][][]byte{
		{stolen},             // by a stranger's key
		{chain[0], chain[2]}, // with a link missing
		{alone},              // by its own new key alone
	} {
		d.offers(mix(t, f.pack(), func(p *trust.Pack) {
			for _, r := range list {
				p.Roots = append(p.Roots, json.RawMessage(r))
			}
		}))
		d.refuses("file", trust.RuleRoot)
		d.stillServes("detector@1.0.0", "one")
	}
	ends(t, d.Program, syscall.SIGKILL)
	ends(t, f.coord, syscall.SIGTERM)
	for i, root := range chain {
		f.puts(repository.Write{Key: trust.MetadataKey(metadata.ROOT, int64(i)+2), Body: root})
	}
	f.restart(f.coord)
	f.answers()
	f.publish("vision", "detector@2.0.0", "two")
	id := f.start("detector@2.0.0")
	f.restart(d.Program)
	f.settled(id)
	d.settles("detector@2.0.0")
	f.untrusted(d, false)
	if got := load[metadata.RootType](t, f.unpacked().Roots[len(f.unpacked().Roots)-1]).Signed.Version; got != 4 {
		t.Errorf("the fleet is at root %d, want 4", got)
	}
}
