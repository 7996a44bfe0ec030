package artifact

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Store is what an upload needs of a bucket; registry.Store offers it.
type Store interface {
	Get(ctx context.Context, key, ifNoneMatch string) (body []byte, etag string, err error)
	Create(ctx context.Context, key string, body registry.Body) (created bool, err error)
}

// UploadOptions says how a folder is uploaded. The zero value is useful.
type UploadOptions struct {
	Parallel int                  // files under way at once; default 2
	TempDir  string               // where packed objects are built; default os.TempDir
	Progress func(UploadProgress) // called now and then, by one goroutine at a time
}

// UploadProgress is how far an upload is.
type UploadProgress struct {
	Path  string // the file that moved last
	Done  int64  // plain bytes settled
	Total int64
}

// UploadStats is what an upload did.
type UploadStats struct {
	Files   int   // of the release
	Bytes   int64 // plain, of all files
	Sent    int64 // bytes of objects that were made
	Objects int   // objects that were made
	Reused  int   // files whose content was in the bucket already
	Packed  int64 // bytes a member fetches when it takes the smallest objects
}

// job is one file to be uploaded.
type job struct {
	file File
	path string
	size int64
	_    fleet.Digest
}
