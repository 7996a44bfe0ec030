package artifact

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Upload puts the files of a folder into a bucket. Doing it again does nothing;
// content that is there already, from any release, is not sent. A file that is
// not what the manifest signed is Invalid: the folder changed since.
func Upload(ctx context.Context, st Store, dir string, files []File, o UploadOptions) (UploadStats, error) {
	return UploadStats{}, fault.Newf(fault.Internal, "upload", dir, "not built yet")
}
