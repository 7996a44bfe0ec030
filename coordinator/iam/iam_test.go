package iam_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/iam"
	"github.com/modelfleet/modelfleet/coordinator/iam/iamtest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

const (
	audience = "5f0c0e7f"
	key      = "1f0c2a9b-77d10e35-c2a7f0aa-90be41d2"
	arn      = "arn:aws:sts::123456789012:assumed-role/scorer/scorer-prod"
)

func TestARoleIsProvedByItsSignature(t *testing.T) {
	known := iamtest.Credentials{KeyID: "AKIA1", Secret: "s/e+c=ret", Session: "token//+==", ARN: arn}
	sts := iamtest.New(t, known)
	v := iam.Verifier{Audience: audience, Client: sts.Client()}
	for _, region := range []string{"", "eu-west-1", "us-gov-west-1", "cn-north-1"} {
		c := identity.Credentials{KeyID: known.KeyID, Secret: known.Secret, Session: known.Session, Region: region}
		got, err := v.Role(t.Context(), c.Prove(audience, key, time.Now()), key)
		if err != nil || got != arn {
			t.Errorf("region %q: %q, %v", region, got, err)
		}
	}
	c := identity.Credentials{KeyID: known.KeyID, Secret: known.Secret, Session: known.Session}
	for name, r := range map[string]api.SignedRequest{
		"another secret":  identity.Credentials{KeyID: known.KeyID, Secret: "guess", Session: known.Session}.Prove(audience, key, time.Now()),
		"no session":      identity.Credentials{KeyID: known.KeyID, Secret: known.Secret}.Prove(audience, key, time.Now()),
		"of yesterday":    c.Prove(audience, key, time.Now().Add(-24*time.Hour)),
		"changed in part": with(c.Prove(audience, key, time.Now()), "x-amz-date", time.Now().Add(time.Second).UTC().Format("20060102T150405Z")),
	} {
		if got, err := v.Role(t.Context(), r, key); !fault.Is(err, fault.Denied) || got != "" {
			t.Errorf("%s: %q, %v; want Denied", name, got, err)
		}
	}
	sts.Status.Store(http.StatusServiceUnavailable)
	if _, err := v.Role(t.Context(), c.Prove(audience, key, time.Now()), key); !fault.Is(err, fault.Transient) {
		t.Errorf("STS in trouble: %v, want Transient", err)
	}
	sts.Status.Store(http.StatusTemporaryRedirect)
	if _, err := v.Role(t.Context(), c.Prove(audience, key, time.Now()), key); !fault.Is(err, fault.Denied) {
		t.Errorf("STS that redirects: %v, want Denied", err)
	}
}

func with(r api.SignedRequest, header, value string) api.SignedRequest {
	r.Headers = maps.Clone(r.Headers)
	r.Headers[header] = value
	return r
}

// Nothing but the request that proves a role goes out, and to nobody but STS.
func TestTheCoordinatorIsNobodysProxy(t *testing.T) {
	sts := iamtest.New(t, iamtest.Credentials{KeyID: "AKIA1", Secret: "secret", ARN: arn})
	v := iam.Verifier{Audience: audience, Client: sts.Client()}
	good := identity.Credentials{KeyID: "AKIA1", Secret: "secret", Region: "eu-west-1"}.Prove(audience, key, time.Now())
	at := func(url string) api.SignedRequest { r := good; r.URL = url; return r }
	unsigned := with(good, "authorization", strings.Replace(good.Headers["authorization"], ";"+identity.HeaderKey, "", 1))
	long := good
	long.Body += "&X=1"
	for name, r := range map[string]api.SignedRequest{
		"another host":        at("https://example.com/"),
		"a host that ends so": at("https://evil-sts.eu-west-1.amazonaws.com/"),
		"a host that goes on": at("https://sts.eu-west-1.amazonaws.com.evil.example/"),
		"another service":     at("https://s3.eu-west-1.amazonaws.com/"),
		"with a port":         at("https://sts.eu-west-1.amazonaws.com:444/"),
		"with a user":         at("https://x@sts.eu-west-1.amazonaws.com/"),
		"with a query":        at("https://sts.eu-west-1.amazonaws.com/?Action=AssumeRole"),
		"with a path":         at("https://sts.eu-west-1.amazonaws.com/x"),
		"in clear":            at("http://sts.eu-west-1.amazonaws.com/"),
		"metadata":            at("http://169.254.169.254/latest/meta-data/"),
		"not a URL":           at("://"),
		"another region":      at("https://sts.us-east-1.amazonaws.com/"),
		"another action":      long,
		"another header":      with(good, "x-forwarded-for", "1.2.3.4"),
		"a header twice":      with(good, "X-Amz-Date", "20260101T000000Z"),
		"a broken header":     with(good, "x-amz-date", "1\r\nHost: x"),
		"another fleet's":     with(good, identity.HeaderAudience, "other"),
		"another key's":       with(good, identity.HeaderKey, "other"),
		"the key not signed":  unsigned,
		"two lists of headers": with(good, "authorization", strings.Replace(good.Headers["authorization"], ", SignedHeaders=",
			", SignedHeaders=host;"+identity.HeaderAudience+";"+identity.HeaderKey+", SignedHeaders=", 1)),
		"a part more":  with(good, "authorization", good.Headers["authorization"]+", Signature=00"),
		"no signature": with(good, "authorization", "Basic eDp5"),
		"no headers":   {URL: good.URL, Body: good.Body},
	} {
		if _, err := v.Role(t.Context(), r, key); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v, want Denied", name, err)
		}
	}
	if sts.Asked() != 0 {
		t.Errorf("%d requests went out", sts.Asked())
	}
	if _, err := v.Role(t.Context(), good, key); err != nil {
		t.Error(err)
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, arn string
		want         bool
	}{
		{"arn:aws:sts::123456789012:assumed-role/scorer/*", arn, true},
		{"arn:aws:sts::123456789012:assumed-role/scor*/*", arn, true},
		{arn, arn, true},
		{"arn:aws:sts::123456789012:assumed-role/scorer/*", "arn:aws:sts::999999999999:assumed-role/scorer/x", false},
		{"arn:aws:sts::123456789012:assumed-role/scorer/*", "arn:aws:sts::123456789012:assumed-role/other/scorer/x", false},
		{"arn:aws:sts::123456789012:assumed-role/*/x", "arn:aws:sts::123456789012:assumed-role/a/b/x", false},
		{"arn:aws:sts::123456789012:assumed-role/scorer/*", "arn:aws:sts::123456789012:assumed-role/scorer/x:y", false},
		{"arn:aws:sts::123456789012:assumed-role/scorer/*", "", false},
	} {
		if got := iam.Matches(c.pattern, c.arn); got != c.want {
			t.Errorf("%s for %s: %v", c.pattern, c.arn, got)
		}
	}
	for pattern, good := range map[string]bool{
		"arn:aws:sts::123456789012:assumed-role/scorer/*":      true,
		"arn:aws-cn:sts::123456789012:assumed-role/scor_r@1/*": true,
		"arn:aws:sts::*:assumed-role/scorer/*":                 false,
		"arn:aws:iam::123456789012:role/scorer":                false,
		"arn:aws:sts::123456789012:assumed-role/scorer":        false,
		"arn:aws:sts::123456789012:assumed-role/scorer/[a":     false,
		"*": false,
	} {
		if err := iam.CheckPattern(pattern); (err == nil) != good {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}
