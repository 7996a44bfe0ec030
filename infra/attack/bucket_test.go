package attack_test

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/modelfleet/modelfleet/infra/devs3"
	mfs3 "github.com/modelfleet/modelfleet/pkg/registry/s3"
)

// bucket is a fleet's part of the bucket in the hands of someone who holds its
// credentials: everything may be read, replaced and deleted.
type bucket struct {
	store  *mfs3.Store
	api    *s3.Client
	name   string
	prefix string
}

func openBucket(t *testing.T, server *devs3.Process, prefix string) *bucket {
	t.Helper()
	store, err := mfs3.Open(t.Context(), mfs3.Options{
		Bucket: server.Bucket, Prefix: prefix, Endpoint: server.Endpoint, Region: server.Region, AccessKey: server.AccessKey, SecretKey: server.SecretKey,
	})
	sure(t, err)
	return &bucket{store: store, name: server.Bucket, prefix: prefix + "/", api: s3.New(s3.Options{
		BaseEndpoint: &server.Endpoint, UsePathStyle: true, Region: server.Region,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	})}
}

func (b *bucket) get(t *testing.T, key string) []byte {
	t.Helper()
	body, _, err := b.store.Get(t.Context(), key, "")
	sure(t, err)
	return body
}

// read is get, as a repository reads.
func (b *bucket) read(ctx context.Context, key string) ([]byte, error) {
	body, _, err := b.store.Get(ctx, key, "")
	return body, err
}

// put puts bytes under a key, whatever is there.
func (b *bucket) put(t *testing.T, key string, body []byte) {
	t.Helper()
	_, err := b.api.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String(b.prefix + key), Body: bytes.NewReader(body)})
	sure(t, err)
}

func (b *bucket) remove(t *testing.T, key string) {
	t.Helper()
	_, err := b.api.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: aws.String(b.prefix + key)})
	sure(t, err)
}

// keys lists what lies below some prefixes.
func (b *bucket) keys(t *testing.T, prefixes ...string) []string {
	t.Helper()
	var keys []string
	for o, err := range b.store.List(t.Context(), "") {
		sure(t, err)
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(o.Key, p) }) {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// copy is all that lies below some prefixes.
func (b *bucket) copy(t *testing.T, prefixes ...string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, key := range b.keys(t, prefixes...) {
		all[key] = b.get(t, key)
	}
	return all
}

// revert makes what lies below some prefixes what it was: newer objects go, others
// come back.
func (b *bucket) revert(t *testing.T, was map[string][]byte, prefixes ...string) {
	t.Helper()
	for _, key := range b.keys(t, prefixes...) {
		if _, had := was[key]; !had {
			b.remove(t, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		b.put(t, key, was[key])
	}
}
