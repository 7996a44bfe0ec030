package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
)

// The parts of a request that proves an AWS role; see coordinator/iam, which takes
// no other.
const (
	CallerBody = "Action=GetCallerIdentity&Version=2011-06-15"

	HeaderAudience = "x-modelfleet-audience" // the fleet that it is meant for, by the digest of its root
	HeaderKey      = "x-modelfleet-key"      // the fingerprint of the key that it vouches for

	contentType = "application/x-www-form-urlencoded; charset=utf-8"
)

// CallerHeaders are the headers that such a request may have, sorted.
func CallerHeaders() []string {
	return []string{"authorization", "content-type", "host", "x-amz-date", "x-amz-security-token", HeaderAudience, HeaderKey}
}

// Credentials are what AWS gives a function in its environment.
type Credentials struct {
	KeyID, Secret, Session, Region string
}

// CredentialsFrom reads them; ok is false where there are none.
func CredentialsFrom(getenv func(string) string) (c Credentials, ok bool) {
	c = Credentials{KeyID: getenv("AWS_ACCESS_KEY_ID"), Secret: getenv("AWS_SECRET_ACCESS_KEY"), Session: getenv("AWS_SESSION_TOKEN"), Region: getenv("AWS_REGION")}
	return c, c.KeyID != "" && c.Secret != ""
}

// Prove signs a GetCallerIdentity request that says, to whoever sends it to AWS STS,
// which role the credentials are of: AWS Signature Version 4 with every header
// signed. It is good for some minutes, for one fleet and one key.
func (c Credentials) Prove(audience, fingerprint string, now time.Time) api.SignedRequest {
	region, host := "us-east-1", "sts.amazonaws.com"
	if c.Region != "" {
		region, host = c.Region, "sts."+c.Region+".amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			host += ".cn"
		}
	}
	at := now.UTC().Format("20060102T150405Z")
	scope := strings.Join([]string{at[:8], region, "sts", "aws4_request"}, "/")
	headers := map[string]string{"content-type": contentType, "host": host, "x-amz-date": at, HeaderAudience: audience, HeaderKey: fingerprint}
	if c.Session != "" {
		headers["x-amz-security-token"] = c.Session
	}
	var names []string
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	signed := strings.Join(names, ";")
	var canonical strings.Builder
	canonical.WriteString("POST\n/\n\n")
	for _, name := range names {
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.TrimSpace(headers[name]))
	}
	fmt.Fprintf(&canonical, "\n%s\n%x", signed, sha256.Sum256([]byte(CallerBody)))
	toSign := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", at, scope, sha256.Sum256([]byte(canonical.String())))
	key := []byte("AWS4" + c.Secret)
	for _, part := range []string{at[:8], region, "sts", "aws4_request", toSign} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	headers["authorization"] = fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", c.KeyID, scope, signed, hex.EncodeToString(key))
	return api.SignedRequest{URL: "https://" + host + "/", Headers: headers, Body: CallerBody}
}
