// Package registry says where objects live: what modelfleet needs of S3, of an
// HTTPS server and of a folder, and nothing more. registry/s3 is built on the
// AWS SDK, registry/web on presigned URLs or a plain web server with the
// standard library only, registry/dir on a folder (an air gap, a test).
// registrytest.Suite is the conformance suite that all of them pass.
//
// A key is a slash-separated path such as "files/ab12/raw". Most objects are
// immutable and made once by [Writer.Create]; the few that change (TUF's
// timestamp, a group's pack) are swapped by compare-and-set. Nothing read here
// is believed: whoever reads checks what came against a signed digest.
//
// Errors are of pkg/fault: NotFound, Denied, Conflict, Exhausted, Transient
// (with [RetryAfter] when the store said how long to wait) and Invalid.
package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// MaxObject bounds an object read whole by [Reader.Get]: bundles, packs and
// metadata. Model files are read by [Reader.Range].
const MaxObject = 64 << 20

// MaxURLLife is how long a presigned URL can be good at most: S3 takes no longer.
const MaxURLLife = 7 * 24 * time.Hour

// ErrNotModified is returned by [Reader.Get] when the object still has the ETag
// the caller named.
var ErrNotModified = errors.New("object is unchanged")

// ErrTooLarge is in the error of [Reader.Get] when the object has more than [MaxObject].
var ErrTooLarge = errors.New("it is larger than an object that is read whole may be")

// Object is what a listing says of an object.
type Object struct {
	Key  string
	Size int64
	ETag string // names this very content; opaque; compare only with what the same store gave
	// Modified is when it was written, by the store's clock.
	Modified time.Time
}

// Reader reads objects. It may be used by many goroutines at once; it does not
// retry what the transport did not already.
type Reader interface {
	// Get reads a small object whole, at most [MaxObject]. With a non-empty
	// ifNoneMatch that is the object's ETag it returns [ErrNotModified].
	Get(ctx context.Context, key, ifNoneMatch string) (body []byte, etag string, err error)
	// Range opens length bytes from offset. A range beyond the end of the object
	// is Invalid; a stream that ends early is the caller's to notice.
	Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
}

// Writer writes and lists objects.
type Writer interface {
	// Create makes an object that must not change afterwards. When the key holds
	// the same content already it does nothing and reports created=false; when
	// it holds other content the error is a Conflict.
	Create(ctx context.Context, key string, body Body) (created bool, err error)
	// Swap replaces an object if its ETag is still the one named; "" means that
	// it must not exist yet. Losing the race is a Conflict.
	Swap(ctx context.Context, key string, body []byte, etag string) (newETag string, err error)
	// List yields the objects whose key begins with prefix, in the order of
	// their keys. It stops after the first error.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
}

// Store both reads and writes.
type Store interface {
	Reader
	Writer
}

// Remover removes objects. It is apart from [Writer]: hardly anybody may.
type Remover interface {
	// Remove removes an object; one that is not there is no error.
	Remove(ctx context.Context, key string) error
}

// Body is the content of an object to be made: random access, so that it can be
// sent in parallel parts and sent again.
type Body struct {
	Reader io.ReaderAt
	Size   int64
	SHA256 [sha256.Size]byte // of the whole; the store refuses other bytes
}

// BodyOf is the Body of bytes in memory.
func BodyOf(b []byte) Body {
	return Body{Reader: strings.NewReader(string(b)), Size: int64(len(b)), SHA256: sha256.Sum256(b)}
}

// CheckKey refuses keys that are not plain slash-separated paths: empty, rooted,
// with "." or ".." elements, backslashes or control characters, or over 1024
// bytes. Every implementation calls it first.
func CheckKey(key string) error {
	if key == "." || len(key) > 1024 || !fs.ValidPath(key) ||
		strings.ContainsFunc(key, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }) {
		return fault.Newf(fault.Invalid, "use key", fmt.Sprintf("%q", key), "not a plain relative path")
	}
	return nil
}

// Busy is in the chain of a Transient error when the store said how long to wait.
type Busy struct {
	After time.Duration
}

// Error says how long to wait.
func (b Busy) Error() string { return fmt.Sprintf("busy, asks to wait %s", b.After) }

// RetryAfter is how long the store asked to wait before the next try, if it did.
func RetryAfter(err error) (time.Duration, bool) {
	b, ok := errors.AsType[Busy](err)
	return b.After, ok
}
