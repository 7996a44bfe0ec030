package awskms

import (
	"errors"
	"net"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// explain says what an error of KMS or of its SDK means, and what to do.
func explain(op, ref string, err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return refused(op, ref, api)
	}
	if missing, ok := errors.AsType[*aws.MissingRegionError](err); ok {
		return fault.New(fault.Invalid, op, ref, missing).WithHint("set AWS_REGION, or name the key by its ARN")
	}
	switch text := err.Error(); {
	case strings.Contains(text, "Missing Region"), strings.Contains(text, "missing AWS Region"):
		return fault.Newf(fault.Invalid, op, ref, "no AWS region is configured").WithHint("set AWS_REGION, or name the key by its ARN")
	case strings.Contains(text, "credentials"):
		return fault.Newf(fault.Denied, op, ref, "no AWS credentials are found").
			WithHint("give this process a role, a profile (AWS_PROFILE) or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	e := fault.New(fault.KindOf(err), op, ref, err)
	if cause, ok := errors.AsType[*net.OpError](err); ok {
		e.Kind, e.Err = fault.Transient, cause
	} else if _, ok := errors.AsType[net.Error](err); ok {
		e.Kind = fault.Transient
	}
	switch e.Kind {
	case fault.Transient:
		return e.WithHint("can this machine reach KMS in the key's region? Through a VPC endpoint: set AWS_ENDPOINT_URL_KMS")
	case fault.Internal: // of what came back nothing could be read
		e.Kind = fault.Invalid
		return e.WithHint(makeKey)
	}
	return e
}

// refused is an answer of KMS that is an error, by its code.
func refused(op, ref string, api smithy.APIError) error {
	code := strings.TrimSuffix(api.ErrorCode(), "Exception")
	cause := errors.New(api.ErrorCode())
	if text := api.ErrorMessage(); text != "" {
		cause = errors.New(api.ErrorCode() + ": " + text)
	}
	is := func(kind fault.Kind, hint string) error { return fault.New(kind, op, ref, cause).WithHint("%s", hint) }
	switch code {
	case "NotFound":
		return is(fault.NotFound, "is the alias written right, and is this the key's account and region (AWS_REGION)?")
	case "AccessDenied":
		return is(fault.Denied, "the key's policy must allow this identity kms:DescribeKey, kms:GetPublicKey and kms:Sign: aws sts get-caller-identity says who it is")
	case "UnrecognizedClient", "InvalidSignature", "IncompleteSignature", "ExpiredToken", "InvalidClientTokenId", "MissingAuthenticationToken":
		return is(fault.Denied, "AWS does not know these credentials, or they have expired: aws sts get-caller-identity; is this machine's clock right?")
	case "Disabled", "KMSInvalidState":
		return disabled(op, ref, cause)
	case "InvalidKeyUsage", "UnsupportedOperation":
		return is(fault.Invalid, makeKey)
	case "Throttling", "LimitExceeded", "TooManyRequests", "RequestLimitExceeded":
		return is(fault.Transient, "KMS throttles this account: try again, or have its request quota raised")
	case "KeyUnavailable", "DependencyTimeout", "KMSInternal", "ServiceUnavailable", "InternalFailure":
		return is(fault.Transient, "KMS has trouble: try again")
	}
	if api.ErrorFault() == smithy.FaultServer {
		return is(fault.Transient, "KMS has trouble: try again")
	}
	return is(fault.Invalid, "see this code in the AWS KMS documentation of Sign, GetPublicKey and DescribeKey")
}

// disabled is a key that is there and does not sign.
func disabled(op, ref string, cause error) error {
	return fault.New(fault.Denied, op, ref, cause).
		WithHint("aws kms enable-key (or cancel-key-deletion); if it was disabled because it was stolen, replace it: modelfleet key rotate")
}
