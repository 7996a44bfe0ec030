package devs3_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// The function as Lambda runs it, with a key in KMS and a bucket in S3: the bucket
// wakes it for a snapshot, the schedule later, and a snapshot is not all that the
// bucket may tell it of.
func TestTheFunctionBeats(t *testing.T) {
	t.Parallel()
	kms := kmstest.New(t)
	heart, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ref := kms.Add("alias/modelfleet/plant/heartbeat", kmstest.Key{Private: heart, Spec: "ECC_NIST_P256", Usage: "SIGN_VERIFY", State: "Enabled"})
	p := start(t, devs3.Options{Dir: t.TempDir(), Region: "eu-west-1", AccessKey: "AKIDTEST", SecretKey: "secret"})
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	bucket := open(t, p)
	g, direct := genesis(t, bucket, heart.Public())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := lambdasim.New(lambdasim.Options{
		Command: []string{self}, Name: "heartbeat", Region: "eu-west-1", TempDir: t.TempDir(), Timeout: 30 * time.Second, InitTimeout: 30 * time.Second,
		Env: append(kms.Env(), "MODELFLEET_BUCKET="+p.Bucket, "MODELFLEET_S3_ENDPOINT="+p.Endpoint, "MODELFLEET_ROOT="+g.Pin.String(), "MODELFLEET_TIMESTAMP_KEY="+ref),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(t.Context()) })
	invoke := func(event string) (res beat.Result, failure string) {
		t.Helper()
		r, err := f.Invoke(t.Context(), []byte(event))
		if err != nil {
			t.Fatal(err)
		}
		if r.FunctionError != "" {
			return res, string(r.Payload)
		}
		if err := json.Unmarshal(r.Payload, &res); err != nil {
			t.Fatal(err)
		}
		return res, ""
	}
	const schedule = `{"version":"0","source":"aws.events","detail-type":"Scheduled Event","resources":["arn:aws:events:eu-west-1:1:rule/x"],"detail":{}}`
	notification := func(key string) string {
		return `{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"` + key + `"}}}]}`
	}
	if _, failure := invoke(schedule); !strings.Contains(failure, "the coordinator has signed none") {
		t.Errorf("before the coordinator's first signature: %q", failure)
	}
	direct(1)
	if res, failure := invoke(notification("tuf/1.snapshot.json")); failure != "" || !res.Signed || res.Snapshot != 1 || len(res.Packs) != 1 {
		t.Errorf("a new snapshot: %+v %s", res, failure)
	}
	n := kms.Signatures()
	if res, failure := invoke(notification("tuf/timestamp.json")); failure != "" || res.Signed {
		t.Errorf("its own write: %+v %s", res, failure)
	}
	if res, failure := invoke(schedule); failure != "" || res.Signed || res.Timestamp != 1 || kms.Signatures() != n {
		t.Errorf("nothing due: %+v %s", res, failure)
	}
	direct(2)
	if res, failure := invoke(schedule); failure != "" || !res.Signed || res.Snapshot != 2 {
		t.Errorf("a snapshot of which it was not told: %+v %s", res, failure)
	}
	pack, _, err := bucket.Get(t.Context(), fleet.DefaultGroup.PackKey(), "")
	if err != nil {
		t.Fatal(err)
	}
	st, err := trust.NewState(g.Root, g.Pin)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, time.Now())
	if err != nil || got.Directive.Sequence != 2 || got.Freshness != trust.Fresh {
		t.Errorf("a member believes directive %d, %s: %v", got.Directive.Sequence, got.Freshness, err)
	}
	kms.Change("alias/modelfleet/plant/heartbeat", func(k *kmstest.Key) { k.Denied = true })
	direct(3)
	if _, failure := invoke(schedule); !strings.Contains(failure, "sign") {
		t.Errorf("a key that may not be used: %q", failure)
	}
}

// genesis puts a fleet into the bucket whose timestamp has one key, and returns
// how its coordinator signs a directive.
func genesis(t *testing.T, bucket *s3.Store, heart crypto.PublicKey) (repository.Genesis, func(seq uint64)) {
	t.Helper()
	key := func() *signer.Signer {
		s, err := signer.Ephemeral()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	coord := key()
	g, err := repository.Init(repository.InitOptions{
		Fleet: "plant", Now: time.Now(), Root: []signature.Signer{key()}, Coordinator: coord.Public(), Timestamp: []crypto.PublicKey{heart},
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{key().Public()}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	put := func(ws []repository.Write) {
		t.Helper()
		for _, w := range ws {
			if _, err := bucket.Create(t.Context(), w.Key, registry.BodyOf(w.Body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(g.Writes)
	return g, func(seq uint64) {
		t.Helper()
		repo, err := repository.Open(t.Context(), get(bucket), repository.Options{Root: g.Root, Coordinator: coord, StampedElsewhere: true})
		if err != nil {
			t.Fatal(err)
		}
		pub, err := repo.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: seq, Issued: time.Now()}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		put(pub.Writes)
	}
}

func get(bucket registry.Reader) repository.Get {
	return func(ctx context.Context, key string) ([]byte, error) {
		body, _, err := bucket.Get(ctx, key, "")
		return body, err
	}
}
