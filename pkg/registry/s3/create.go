package s3

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

const (
	// lookFirst is the size from which an object is looked up before it is sent:
	// a condition is checked when the body has been received.
	lookFirst = 256 << 10
	// multipartFrom is the size from which an object is sent in parts.
	multipartFrom = 64 << 20
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

func byteRange(offset, length int64) *string {
	return aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
}
