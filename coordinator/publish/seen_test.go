package publish_test

import (
	"crypto"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// A bucket that was put back is refused, also next to a root that only lives
// longer; one that gives the online roles to other keys begins anew.
func TestOnlyOtherKeysForgiveABucketThatWasPutBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  repository.RootChange
		forgive bool
	}{
		"a renewed root":      {},
		"another timestamp's": {repository.RootChange{Timestamp: []crypto.PublicKey{must(signer.Ephemeral())(t).Public()}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := must(w.open())(t)
			must(p.Publish(t.Context(), directive(1), time.Now()))(t)
			key := trust.MetadataKey("timestamp", 0)
			old, _, err := w.bucket.Get(t.Context(), key, "")
			if err != nil {
				t.Fatal(err)
			}
			must(p.Publish(t.Context(), directive(2), time.Now()))(t)
			_, etag, err := w.bucket.Get(t.Context(), key, "")
			if err != nil {
				t.Fatal(err)
			}
			must(w.bucket.Store.Swap(t.Context(), key, old, etag))(t)
			root, ok, err := repository.NextRoot(w.root, c.change, time.Now(), repository.Lifetimes{}, w.keeper)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			must(w.bucket.Store.Create(t.Context(), trust.MetadataKey("root", 2), registry.BodyOf(root)))(t)
			if _, err := w.open(); (err == nil) != c.forgive || !c.forgive && trust.RuleOf(err) != trust.RuleVersion {
				t.Errorf("opened: %v", err)
			}
		})
	}
}
