// Package web reads a registry over HTTPS: by presigned URLs, which is how a
// device without cloud credentials reads a bucket, or below a base URL (a CDN,
// any web server that does ranges). It needs the standard library only.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// MaxSign is the most keys that Sign is asked for at once.
const MaxSign = 256

// renewBefore is how long before it expires a URL is replaced. If that fails,
// the old one is used to its end: a coordinator that is down stops nothing.
const renewBefore = time.Minute

// maxURLs bounds the cache of URLs.
const maxURLs = 4096

// Options says where objects are read from: exactly one of BaseURL and Sign
// must be given.
type Options struct {
	// BaseURL is put before each key.
	BaseURL string
	// Sign returns one URL per key, in order, and when they expire. It may be
	// called by many goroutines at once.
	Sign func(ctx context.Context, keys []string) (urls []string, expires time.Time, err error)
	// Client makes the requests; default one made for large ranged reads.
	Client *http.Client
	// Max is how many bytes an object may have that [Reader.Get] reads whole;
	// default [registry.MaxObject].
	Max int64
}

// Reader reads objects over HTTPS. It may be used by many goroutines at once.
type Reader struct {
	o Options

	mu   sync.Mutex
	urls map[string]signed
}

type signed struct {
	url     string
	expires time.Time
}

// Open returns a reader; it makes no request.
func Open(o Options) (*Reader, error) {
	if (o.BaseURL == "") == (o.Sign == nil) {
		return nil, fault.Newf(fault.Invalid, "open web registry", o.BaseURL, "give a base URL or a way to sign, not both")
	}
	if o.BaseURL != "" {
		u, err := url.Parse(o.BaseURL)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			return nil, fault.New(fault.Invalid, "open web registry", o.BaseURL, err).
				WithHint("write for example https://models.example.com/fleet")
		}
		o.BaseURL = strings.TrimSuffix(o.BaseURL, "/") + "/"
	}
	if o.Client == nil {
		o.Client = NewClient()
	}
	if o.Max == 0 {
		o.Max = registry.MaxObject
	}
	return &Reader{o: o, urls: map[string]signed{}}, nil
}

// NewClient returns an HTTP client for large ranged reads: several connections
// to one host are kept, big read buffers, no transparent decompression, which
// would change the bytes. It bounds the wait for an answer, not for its body.
func NewClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true
	t.MaxIdleConnsPerHost = 16
	t.ReadBufferSize = 64 << 10
	t.ResponseHeaderTimeout = 30 * time.Second
	t.ForceAttemptHTTP2 = false // one TCP connection a range: a lost packet slows one of them
	return &http.Client{Transport: t, CheckRedirect: secretly}
}

// secretly follows redirects without telling where from: a presigned URL is a secret,
// and the Referer would hold it.
func secretly(r *http.Request, via []*http.Request) error {
	if len(via) >= 3 {
		return errors.New("it redirects more than 3 times")
	}
	r.Header.Del("Referer")
	return nil
}

// Prepare asks for the URLs of many keys at once, so that the reads that follow
// need not ask one by one. It does nothing with a base URL.
func (r *Reader) Prepare(ctx context.Context, keys []string) error {
	if r.o.Sign == nil {
		return nil
	}
	var missing []string
	for _, k := range keys {
		if _, fresh := r.cached(k); !fresh {
			missing = append(missing, k)
		}
	}
	for len(missing) > 0 {
		n := min(len(missing), MaxSign)
		if err := r.sign(ctx, missing[:n]); err != nil {
			return err
		}
		missing = missing[n:]
	}
	return nil
}

// Get reads an object whole.
func (r *Reader) Get(ctx context.Context, key, ifNoneMatch string) ([]byte, string, error) {
	resp, err := r.do(ctx, key, "If-None-Match", ifNoneMatch)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	etag := resp.Header.Get("ETag")
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return nil, etag, registry.ErrNotModified
	default:
		return nil, "", statusError("read object", key, resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, r.o.Max+1))
	if err != nil {
		return nil, "", registry.TransportError(ctx, "read object", key, err)
	}
	if int64(len(b)) > r.o.Max {
		return nil, "", fault.New(fault.Exhausted, "read object", key, registry.ErrTooLarge)
	}
	return b, etag, nil
}

// Range opens a part of an object.
func (r *Reader) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || length <= 0 {
		return nil, fault.Newf(fault.Invalid, "read range", key, "%d bytes from %d", length, offset)
	}
	resp, err := r.do(ctx, key, "Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		err = registry.CheckRange(key, offset, length, resp.StatusCode, resp.Header.Get("Content-Range"), resp.ContentLength)
	} else {
		err = statusError("read range", key, resp)
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// do sends a GET with one more header. A refusal (403) of a URL that was in the
// cache means that it expired or its signer's key was changed: it is asked for
// anew, once.
func (r *Reader) do(ctx context.Context, key, header, value string) (*http.Response, error) {
	if err := registry.CheckKey(key); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		u, old, err := r.url(ctx, key)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read object", key, err)
		}
		if value != "" {
			req.Header.Set(header, value)
		}
		resp, err := r.o.Client.Do(req)
		if err != nil {
			// The URL carries a signature: it does not belong into messages and logs.
			if ue, ok := errors.AsType[*url.Error](err); ok {
				err = ue.Err
			}
			return nil, registry.TransportError(ctx, "read object", key, err)
		}
		if resp.StatusCode != http.StatusForbidden || !old || try > 0 {
			return resp, nil
		}
		_ = resp.Body.Close()
		r.forget(key, u)
	}
}

// url is where a key is read; old says that it was in the cache.
func (r *Reader) url(ctx context.Context, key string) (u string, old bool, err error) {
	if r.o.Sign == nil {
		return r.o.BaseURL + (&url.URL{Path: key}).EscapedPath(), false, nil
	}
	c, fresh := r.cached(key)
	if fresh {
		return c.url, true, nil
	}
	if err := r.sign(ctx, []string{key}); err != nil {
		if c.url != "" && time.Now().Before(c.expires) {
			return c.url, true, nil
		}
		return "", false, err
	}
	c, _ = r.cached(key)
	return c.url, false, nil
}

func (r *Reader) cached(key string) (s signed, fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s = r.urls[key]
	return s, s.url != "" && time.Until(s.expires) > renewBefore
}

func (r *Reader) forget(key, u string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.urls[key].url == u {
		delete(r.urls, key)
	}
}

func (r *Reader) sign(ctx context.Context, keys []string) error {
	urls, expires, err := r.o.Sign(ctx, keys)
	if err != nil {
		return fmt.Errorf("sign %d urls: %w", len(keys), err)
	}
	if len(urls) != len(keys) {
		return fault.Newf(fault.Transient, "sign urls", "", "asked for %d, got %d", len(keys), len(urls))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.urls)+len(keys) > maxURLs {
		clear(r.urls)
	}
	for i, k := range keys {
		r.urls[k] = signed{urls[i], expires}
	}
	return nil
}

func statusError(op, key string, resp *http.Response) error {
	return registry.StatusError(op, key, resp.StatusCode, resp.Header, nil)
}
