package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

const (
	partSize    = 16 << 20
	maxParts    = 10000
	partsAtOnce = 4
)

// upload is an object on its way in parts.
type upload struct {
	id   string
	body registry.Body
	size int64                         // of each part but the last
	done map[int32]types.CompletedPart // parts that are there
}

// part is the n-th part's place in the body, counted from 1.
func (u upload) part(n int32) (offset, length int64) {
	offset = int64(n-1) * u.size
	return offset, min(u.size, u.body.Size-offset)
}

func (u upload) parts() int32 { return int32((u.body.Size + u.size - 1) / u.size) }

// putParts sends a large object in parallel parts, each with its own SHA-256.
// The condition is on the last step, so nobody sees a part of it. When the
// network fails or the caller gives up, the parts stay: the next attempt goes on
// there, and the bucket's rule for unfinished uploads bounds how long.
func (s *Store) putParts(ctx context.Context, key string, body registry.Body) error {
	u := upload{body: body, size: max(int64(partSize), (body.Size+maxParts-1)/maxParts), done: map[int32]types.CompletedPart{}}
	resumed := s.resume(ctx, key, &u)
	if !resumed {
		up, err := s.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &s.o.Bucket, Key: s.key(key), ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
			Metadata: map[string]string{sumKey: hex.EncodeToString(body.SHA256[:])},
		})
		if err != nil {
			return s.fault(ctx, "create object", key, err)
		}
		u.id = aws.ToString(up.UploadId)
	}
	parts, err := s.sendParts(ctx, key, u)
	if err == nil {
		_, err = s.api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.o.Bucket, Key: s.key(key), UploadId: &u.id, IfNoneMatch: aws.String("*"),
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
	}
	err = s.fault(ctx, "create object", key, err)
	switch {
	case resumed && (err == nil || fault.Is(err, fault.NotFound)):
		// Whoever began it said what the whole is; or has finished it meanwhile.
		return s.same(ctx, key, body)
	case err == nil || fault.Is(err, fault.Transient) || fault.Is(err, fault.Canceled):
		return err
	}
	// Parts that nobody will ask for cost money.
	_, aerr := s.api.AbortMultipartUpload(context.WithoutCancel(ctx), &s3.AbortMultipartUploadInput{
		Bucket: &s.o.Bucket, Key: s.key(key), UploadId: &u.id,
	})
	if aerr != nil && statusOf(aerr) != 404 {
		return errors.Join(err, fmt.Errorf("abort upload: %w", aerr))
	}
	return err
}

// resume finds an unfinished upload of the same content. It only saves sending:
// where it may not be asked for, there is none.
func (s *Store) resume(ctx context.Context, key string, u *upload) bool {
	list, err := s.api.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &s.o.Bucket, Prefix: s.key(key)})
	if err != nil {
		return false
	}
	for _, up := range list.Uploads {
		if aws.ToString(up.Key) != *s.key(key) {
			continue
		}
		u.id = aws.ToString(up.UploadId)
		if s.partsOf(ctx, key, u) && len(u.done) > 0 {
			return true
		}
		clear(u.done)
	}
	return false
}

// partsOf learns which parts of an upload are there, and reports whether all of
// them are of this content.
func (s *Store) partsOf(ctx context.Context, key string, u *upload) bool {
	pages := s3.NewListPartsPaginator(s.api, &s3.ListPartsInput{Bucket: &s.o.Bucket, Key: s.key(key), UploadId: &u.id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return false
		}
		for _, p := range page.Parts {
			n := aws.ToInt32(p.PartNumber)
			if n < 1 || n > u.parts() {
				return false
			}
			offset, length := u.part(n)
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(u.body.Reader, offset, length)); err != nil ||
				aws.ToInt64(p.Size) != length || aws.ToString(p.ChecksumSHA256) != base64.StdEncoding.EncodeToString(h.Sum(nil)) {
				return false
			}
			u.done[n] = types.CompletedPart{ETag: p.ETag, PartNumber: &n, ChecksumSHA256: p.ChecksumSHA256}
		}
	}
	return true
}

func (s *Store) sendParts(ctx context.Context, key string, u upload) ([]types.CompletedPart, error) {
	parts := make([]types.CompletedPart, u.parts())
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for i := range parts {
		n := int32(i + 1)
		if p, ok := u.done[n]; ok {
			parts[i] = p
			continue
		}
		g.Go(func() error {
			offset, length := u.part(n)
			out, err := s.api.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &s.o.Bucket, Key: s.key(key), UploadId: &u.id, PartNumber: &n,
				Body: io.NewSectionReader(u.body.Reader, offset, length), ContentLength: &length,
				ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
			})
			if err != nil {
				return err
			}
			parts[i] = types.CompletedPart{ETag: out.ETag, PartNumber: &n, ChecksumSHA256: out.ChecksumSHA256}
			return nil
		})
	}
	return parts, g.Wait()
}
