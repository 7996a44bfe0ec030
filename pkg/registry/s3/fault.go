package s3

import (
	"context"
	"errors"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

func statusOf(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}

// fault classifies an error of the SDK; nil stays nil.
func (s *Store) fault(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	cause := err
	if ae, ok := errors.AsType[smithy.APIError](err); ok {
		// The SDK's own text repeats operation, host and request id; the code says it all.
		cause = apiCause{ae}
		switch ae.ErrorCode() {
		case "NoSuchBucket":
			return s.noBucket(op, cause)
		case "RequestTimeout", "RequestTimeTooSkewed":
			return fault.New(fault.Transient, op, key, cause)
		}
	}
	re, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || re.Response == nil {
		return registry.TransportError(ctx, op, key, cause)
	}
	var header http.Header
	if re.Response.Response != nil {
		header = re.Response.Header
	}
	return registry.StatusError(op, key, re.HTTPStatusCode(), header, cause)
}

func (s *Store) noBucket(op string, cause error) error {
	return fault.New(fault.NotFound, op, s.o.Bucket, cause).
		WithHint("there is no bucket %q; check its name, region and endpoint, or make it", s.o.Bucket)
}

// apiCause is an answer of the server in a few words; it unwraps to the SDK's.
type apiCause struct{ smithy.APIError }

// Error is "CODE: message".
func (c apiCause) Error() string {
	if m := c.ErrorMessage(); m != "" {
		return c.ErrorCode() + ": " + m
	}
	return c.ErrorCode()
}

// Unwrap returns the SDK's error.
func (c apiCause) Unwrap() error { return c.APIError }
