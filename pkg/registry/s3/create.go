package s3

import (
	"context"
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
	// lookFirst is the size from which an object is looked up before it is sent:
	// a condition is checked when the body has been received.
	lookFirst = 256 << 10
	// multipartFrom is the size from which an object is sent in parts.
	multipartFrom = 64 << 20
	partSize      = 16 << 20
	maxParts      = 10000
	partsAtOnce   = 4
)

// Create makes an object, or finds the same one there.
func (s *Store) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	if err := registry.CheckKey(key); err != nil {
		return false, err
	}
	if body.Size >= lookFirst {
		err := s.same(ctx, key, body)
		if err == nil || !fault.Is(err, fault.NotFound) {
			return false, err
		}
	}
	put := s.put
	if body.Size >= multipartFrom {
		put = s.putParts
	}
	err := put(ctx, key, body)
	if fault.Is(err, fault.Conflict) {
		// Someone was first. Two who make the same object both succeed.
		return false, s.same(ctx, key, body)
	}
	return err == nil, err
}

func (s *Store) put(ctx context.Context, key string, body registry.Body) error {
	_, err := s.api.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.o.Bucket, Key: s.key(key), IfNoneMatch: aws.String("*"),
		Body: io.NewSectionReader(body.Reader, 0, body.Size), ContentLength: &body.Size,
		ChecksumSHA256: checksum(body.SHA256[:]),
		Metadata:       map[string]string{sumKey: hex.EncodeToString(body.SHA256[:])},
	})
	return s.fault(ctx, "create object", key, err)
}

// putParts sends a large object in parallel parts, each with its own SHA-256.
// The condition is on the last step, so nobody sees a part of it.
func (s *Store) putParts(ctx context.Context, key string, body registry.Body) error {
	up, err := s.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &s.o.Bucket, Key: s.key(key), ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
		Metadata: map[string]string{sumKey: hex.EncodeToString(body.SHA256[:])},
	})
	if err != nil {
		return s.fault(ctx, "create object", key, err)
	}
	parts, err := s.sendParts(ctx, key, up.UploadId, body)
	if err == nil {
		_, err = s.api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.o.Bucket, Key: s.key(key), UploadId: up.UploadId, IfNoneMatch: aws.String("*"),
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
	}
	if err == nil {
		return nil
	}
	err = s.fault(ctx, "create object", key, err)
	// Parts left behind cost money: they are taken back even when the caller gave up.
	_, aerr := s.api.AbortMultipartUpload(context.WithoutCancel(ctx), &s3.AbortMultipartUploadInput{
		Bucket: &s.o.Bucket, Key: s.key(key), UploadId: up.UploadId,
	})
	if aerr != nil && statusOf(aerr) != 404 {
		return errors.Join(err, fmt.Errorf("abort upload: %w", aerr))
	}
	return err
}

func (s *Store) sendParts(ctx context.Context, key string, upload *string, body registry.Body) ([]types.CompletedPart, error) {
	size := max(int64(partSize), (body.Size+maxParts-1)/maxParts)
	count := int((body.Size + size - 1) / size)
	parts := make([]types.CompletedPart, count)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for i := range count {
		g.Go(func() error {
			off := int64(i) * size
			n := min(size, body.Size-off)
			number := aws.Int32(int32(i + 1))
			out, err := s.api.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &s.o.Bucket, Key: s.key(key), UploadId: upload, PartNumber: number,
				Body: io.NewSectionReader(body.Reader, off, n), ContentLength: &n,
				ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
			})
			if err != nil {
				return err
			}
			parts[i] = types.CompletedPart{ETag: out.ETag, PartNumber: number, ChecksumSHA256: out.ChecksumSHA256}
			return nil
		})
	}
	return parts, g.Wait()
}

func byteRange(offset, length int64) *string {
	return aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
}
