// Package s3 is a registry in an S3 bucket, by the AWS SDK: AWS itself, and any
// server that does conditional writes. Publishers, the coordinator and functions
// use it; devices read by presigned URLs (registry/web) and hold no credentials.
//
// Immutable objects are made with If-None-Match: * and a SHA-256 the server
// checks; changing ones are swapped with If-Match. Nothing else is asked of the
// bucket: no versioning, no notifications, no delete.
package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"io"
	"iter"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Options says which bucket. Only Bucket must be given.
type Options struct {
	Bucket   string
	Prefix   string // put before each key, without a slash at its end
	Region   string // default: the environment's, else us-east-1
	Endpoint string // another server than AWS: its URL; addressed by path
	// AccessKey and SecretKey are for development; default: the SDK's chain
	// (environment, shared files, role of the machine or function).
	AccessKey, SecretKey string
	// URLProfile is the profile of the shared files whose credentials sign URLs
	// ([Store.Presign]); default: those that everything else is done with. A role's
	// credentials end with its session, and what they signed with them.
	URLProfile string
	Attempts   int          // tries of each request; default 3
	Client     *http.Client // for the bucket; default: the SDK's
}

// Store is a registry in a bucket. It may be used by many goroutines at once.
type Store struct {
	o       Options
	api     *s3.Client
	signs   aws.CredentialsProvider // URLs
	presign *s3.PresignClient
	clock   *atomic.Pointer[answered]
}

// Open returns the registry; it finds credentials but makes no request to the
// bucket. See [Store.Check].
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Bucket == "" {
		return nil, fault.Newf(fault.Invalid, "open bucket", "", "no bucket is named")
	}
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		o.Prefix += "/"
	}
	if o.Attempts == 0 {
		o.Attempts = 3
	}
	var load []func(*config.LoadOptions) error
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "open bucket", o.Bucket, err).
			WithHint("check the AWS configuration files and AWS_* variables")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return nil, fault.New(fault.Denied, "open bucket", o.Bucket, err).
			WithHint("give AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	cfg.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(so *retry.StandardOptions) { so.MaxAttempts = o.Attempts })
	}
	clock := &atomic.Pointer[answered]{}
	api := s3.NewFromConfig(cfg, func(so *s3.Options) {
		if o.Endpoint != "" {
			so.BaseEndpoint, so.UsePathStyle = aws.String(o.Endpoint), true
		}
		if o.Client != nil {
			so.HTTPClient = o.Client
		}
		so.HTTPClient = dated{so.HTTPClient, clock}
		// Whoever reads verifies against what was signed; a second checksum is cost only.
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	})
	signs, err := urlCredentials(ctx, o.URLProfile, cfg.Credentials)
	if err != nil {
		return nil, err
	}
	presign := s3.NewPresignClient(api, s3.WithPresignClientFromClientOptions(func(so *s3.Options) { so.Credentials = signs }))
	return &Store{o: o, api: api, signs: signs, presign: presign, clock: clock}, nil
}

// urlCredentials are what URLs are signed with.
func urlCredentials(ctx context.Context, profile string, others aws.CredentialsProvider) (aws.CredentialsProvider, error) {
	if profile == "" {
		return others, nil
	}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithSharedConfigProfile(profile))
	if err == nil {
		_, err = cfg.Credentials.Retrieve(ctx)
	}
	if err != nil {
		return nil, fault.New(fault.Denied, "find what signs urls", profile, err).WithHint("give the profile keys in the AWS credentials file")
	}
	return cfg.Credentials, nil
}

// Check asks the bucket whether it is there and may be used.
func (s *Store) Check(ctx context.Context) error {
	_, err := s.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.o.Bucket})
	if err == nil {
		return nil
	}
	err = s.fault(ctx, "open bucket", "", err)
	if fault.Is(err, fault.NotFound) {
		return s.noBucket("open bucket", err)
	}
	return err
}

func (s *Store) key(k string) *string { return aws.String(s.o.Prefix + k) }

// Get reads an object whole.
func (s *Store) Get(ctx context.Context, key, ifNoneMatch string) ([]byte, string, error) {
	if err := registry.CheckKey(key); err != nil {
		return nil, "", err
	}
	in := &s3.GetObjectInput{Bucket: &s.o.Bucket, Key: s.key(key)}
	if ifNoneMatch != "" {
		in.IfNoneMatch = &ifNoneMatch
	}
	out, err := s.api.GetObject(ctx, in)
	if statusOf(err) == http.StatusNotModified {
		return nil, ifNoneMatch, registry.ErrNotModified
	}
	if err != nil {
		return nil, "", s.fault(ctx, "read object", key, err)
	}
	defer out.Body.Close()
	if out.ContentRange != nil {
		return nil, "", fault.Newf(fault.Transient, "read object", key, "asked for all of it, answered %q", *out.ContentRange)
	}
	b, err := io.ReadAll(io.LimitReader(out.Body, registry.MaxObject+1))
	if err != nil {
		return nil, "", registry.TransportError(ctx, "read object", key, err)
	}
	if len(b) > registry.MaxObject {
		return nil, "", fault.New(fault.Exhausted, "read object", key, registry.ErrTooLarge)
	}
	return b, aws.ToString(out.ETag), nil
}

// Range opens a part of an object.
func (s *Store) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := registry.CheckKey(key); err != nil {
		return nil, err
	}
	if offset < 0 || length <= 0 {
		return nil, fault.Newf(fault.Invalid, "read range", key, "%d bytes from %d", length, offset)
	}
	out, err := s.api.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.o.Bucket, Key: s.key(key), Range: byteRange(offset, length)})
	if err != nil {
		return nil, s.fault(ctx, "read range", key, err)
	}
	// The SDK does not tell 200 from 206: a range is what has a place.
	if err := registry.CheckRange(key, offset, length, http.StatusOK, aws.ToString(out.ContentRange), aws.ToInt64(out.ContentLength)); err != nil {
		_ = out.Body.Close()
		return nil, err
	}
	return out.Body, nil
}

// Swap replaces an object if it is still the one with etag.
func (s *Store) Swap(ctx context.Context, key string, body []byte, etag string) (string, error) {
	if err := registry.CheckKey(key); err != nil {
		return "", err
	}
	b := registry.BodyOf(body)
	in := &s3.PutObjectInput{
		Bucket: &s.o.Bucket, Key: s.key(key), Body: bytes.NewReader(body), ContentLength: &b.Size,
		ChecksumSHA256: checksum(b.SHA256[:]),
	}
	if etag == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &etag
	}
	out, err := s.api.PutObject(ctx, in)
	if err != nil {
		err = s.fault(ctx, "swap object", key, err)
		if etag != "" && fault.Is(err, fault.NotFound) {
			return "", fault.New(fault.Conflict, "swap object", key, err) // it was there, and is gone
		}
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

// Remove removes an object; a bucket that keeps versions keeps it as an old one.
func (s *Store) Remove(ctx context.Context, key string) error {
	if err := registry.CheckKey(key); err != nil {
		return err
	}
	if _, err := s.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: s.key(key)}); err != nil {
		return s.fault(ctx, "remove object", key, err)
	}
	return nil
}

// List yields the objects whose key begins with prefix.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[registry.Object, error] {
	return func(yield func(registry.Object, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.api, &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: s.key(prefix)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(registry.Object{}, s.fault(ctx, "list objects", prefix, err))
				return
			}
			for _, o := range page.Contents {
				obj := registry.Object{
					Key:  strings.TrimPrefix(aws.ToString(o.Key), s.o.Prefix),
					Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag), Modified: aws.ToTime(o.LastModified),
				}
				if !yield(obj, nil) {
					return
				}
			}
		}
	}
}

// Presign returns a URL that reads an object, ranges of it too, without
// credentials until it expires: after ttl, at most [registry.MaxURLLife], or when
// the credentials that signed it do, which those of a role soon will.
func (s *Store) Presign(ctx context.Context, key string, ttl time.Duration) (url string, expires time.Time, err error) {
	if err := registry.CheckKey(key); err != nil {
		return "", time.Time{}, err
	}
	if ttl, err = s.life(ctx, ttl); err != nil {
		return "", time.Time{}, err
	}
	expires = time.Now().Truncate(time.Second).Add(ttl) // the signature's time is of whole seconds
	req, err := s.presign.PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &s.o.Bucket, Key: s.key(key)}, s3.WithPresignExpires(ttl))
	if err != nil {
		return "", time.Time{}, s.fault(ctx, "presign", key, err)
	}
	return req.URL, expires, nil
}

// life is how long a URL that should be good for ttl can be.
func (s *Store) life(ctx context.Context, ttl time.Duration) (time.Duration, error) {
	const op = "presign"
	ttl = min(ttl, registry.MaxURLLife)
	creds, err := s.signs.Retrieve(ctx)
	if err != nil {
		return 0, fault.New(fault.Transient, op, s.o.Bucket, err).WithHint("look whether the role or profile still gives AWS credentials")
	}
	if creds.CanExpire {
		ttl = min(ttl, time.Until(creds.Expires))
	}
	if ttl = ttl.Truncate(time.Second); ttl <= 0 {
		return 0, fault.Newf(fault.Transient, op, s.o.Bucket, "the AWS credentials end just now").WithHint("try again: they are being renewed")
	}
	return ttl, nil
}

// Sign presigns many keys; it is what registry/web's Options.Sign wants, with a
// time to live. All of them are good until expires.
func (s *Store) Sign(ctx context.Context, keys []string, ttl time.Duration) (urls []string, expires time.Time, err error) {
	for i, k := range keys {
		u, until, err := s.Presign(ctx, k, ttl)
		if err != nil {
			return nil, time.Time{}, err
		}
		if i == 0 || until.Before(expires) {
			expires = until
		}
		urls = append(urls, u)
	}
	return urls, expires, nil
}

// same is nil when the object at key has the content of body.
func (s *Store) same(ctx context.Context, key string, body registry.Body) error {
	head, err := s.head(ctx, key)
	if err != nil {
		return err
	}
	sum, known := recordedSum(head)
	differs := aws.ToInt64(head.ContentLength) != body.Size || (known && sum != hex.EncodeToString(body.SHA256[:]))
	if !differs && !known {
		// Put here by another program: only its content can tell.
		b, _, err := s.Get(ctx, key, "")
		if err != nil {
			return err
		}
		differs = registry.BodyOf(b).SHA256 != body.SHA256
	}
	if differs {
		return fault.Newf(fault.Conflict, "create object", key, "it exists with other content")
	}
	return nil
}

func (s *Store) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	out, err := s.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: s.key(key), ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return nil, s.fault(ctx, "look up object", key, err)
	}
	return out, nil
}

// sumKey is the object metadata that holds the SHA-256 of the whole: a
// multipart object's own checksum is one of checksums.
const sumKey = "modelfleet-sha256"

func recordedSum(h *s3.HeadObjectOutput) (string, bool) {
	if h.ChecksumSHA256 != nil && h.ChecksumType != types.ChecksumTypeComposite {
		if b, err := base64.StdEncoding.DecodeString(*h.ChecksumSHA256); err == nil {
			return hex.EncodeToString(b), true
		}
	}
	v, ok := h.Metadata[sumKey]
	return v, ok
}

func checksum(sum []byte) *string { return aws.String(base64.StdEncoding.EncodeToString(sum)) }
