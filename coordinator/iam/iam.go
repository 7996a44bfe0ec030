// Package iam finds out which AWS role somebody runs as, without a secret between
// the two: the caller signs a GetCallerIdentity request to AWS STS, the coordinator
// sends it there, and STS says whose signature it is.
//
//	function ── signed request ──▶ coordinator ── the same, to STS only ──▶ STS
//	                                  arn:aws:sts::123456789012:assumed-role/scorer/scorer ◀─┘
//
// The signature covers two headers of ours: whom the request is meant for, which is
// the digest of the fleet's root, and which key is to be vouched for. So a request
// that somebody else was sent, or that was overheard, is worth nothing here, and one
// that we were sent is worth nothing elsewhere. Nothing of the request but what is
// checked goes out, and only to the hosts of STS.
package iam

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

const (
	op      = "prove role"
	maxText = 16 << 10 // of an answer of STS, and of a header
	timeout = 10 * time.Second
)

// hosts are those of STS, global, regional and FIPS, in the partitions of AWS.
var hosts = regexp.MustCompile(`^sts(-fips)?(\.[a-z]{2}(-[a-z]+)+-[0-9]+)?\.amazonaws\.com(\.cn)?$`)

// Verifier asks STS. It is safe for concurrent use.
type Verifier struct {
	// Audience is what a request has to be meant for.
	Audience string
	// Client sends requests; nil: one that follows no redirects and gives up after
	// ten seconds.
	Client *http.Client
}

// Role is the ARN of whoever signed the request, for the key with the fingerprint.
func (v Verifier) Role(ctx context.Context, r api.SignedRequest, fingerprint string) (string, error) {
	if err := v.check(r, fingerprint); err != nil {
		return "", err
	}
	client := v.Client
	if client == nil {
		client = &http.Client{}
	}
	only := *client // STS redirects nobody
	only.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, strings.NewReader(r.Body))
	if err != nil {
		return "", fault.New(fault.Invalid, op, r.URL, err)
	}
	for k, val := range r.Headers {
		req.Header.Set(k, val)
	}
	req.Header.Del("Host") // it is the URL's
	resp, err := only.Do(req)
	if err != nil {
		return "", fault.New(fault.Transient, op, req.URL.Host, err).WithHint("can the coordinator reach AWS STS?")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxText))
	switch {
	case err != nil:
		return "", fault.New(fault.Transient, op, req.URL.Host, err)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return "", fault.Newf(fault.Transient, op, req.URL.Host, "STS answers %s", resp.Status)
	case resp.StatusCode != http.StatusOK:
		return "", fault.Newf(fault.Denied, op, req.URL.Host, "STS refuses the signature: %s", reason(body, resp.Status)).
			WithHint("are the function's credentials its role's own, and its clock right?")
	}
	return arn(body)
}

// check refuses every request that is not exactly the one that proves a role.
func (v Verifier) check(r api.SignedRequest, fingerprint string) error {
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Denied, op, "", format, args...).
			WithHint("see docs/formats/http.md, roles of AWS")
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "/" && u.Path != ""):
		return bad("%.100q is not the address of STS", r.URL)
	case !hosts.MatchString(u.Host):
		return bad("%.100q is no host of STS", u.Host)
	case r.Body != identity.CallerBody:
		return bad("it asks for something else than GetCallerIdentity")
	}
	got := map[string]string{}
	for k, val := range r.Headers {
		name := strings.ToLower(k)
		if !slices.Contains(identity.CallerHeaders(), name) || got[name] != "" || val == "" || len(val) > maxText || strings.ContainsAny(val, "\r\n") {
			return bad("the header %.40q is not one that proves a role, is there twice, or is damaged", k)
		}
		got[name] = val
	}
	signed := signedHeaders(got["authorization"])
	for _, name := range []string{"host", identity.HeaderAudience, identity.HeaderKey} {
		if !slices.Contains(signed, name) {
			return bad("the signature does not cover %s", name)
		}
	}
	switch {
	case got[identity.HeaderAudience] != v.Audience:
		return bad("it is meant for %.80q, not for this fleet", got[identity.HeaderAudience])
	case got[identity.HeaderKey] != fingerprint:
		return bad("it vouches for the key %.80q, not for the one that asks", got[identity.HeaderKey])
	case got["host"] != "" && got["host"] != u.Host:
		return bad("it is signed for host %.100q and addressed to %s", got["host"], u.Host)
	}
	return nil
}

// authorization is a signature in the one form that has no second reading: whoever
// takes the last of two lists would judge by other headers than we do.
var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[A-Za-z0-9/_-]+, ?SignedHeaders=([a-z0-9;-]+), ?Signature=[0-9a-f]{64}$`)

// signedHeaders reads which headers a signature covers.
func signedHeaders(text string) []string {
	parts := authorization.FindStringSubmatch(text)
	if parts == nil {
		return nil
	}
	return strings.Split(parts[1], ";")
}

// arn reads STS's answer.
func arn(body []byte) (string, error) {
	var out struct {
		XMLName xml.Name `xml:"GetCallerIdentityResponse"`
		ARN     string   `xml:"GetCallerIdentityResult>Arn"`
	}
	if err := xml.NewDecoder(bytes.NewReader(body)).Decode(&out); err != nil || !strings.HasPrefix(out.ARN, "arn:") {
		return "", fault.Newf(fault.Transient, op, "", "STS's answer names nobody: %.100q", body)
	}
	return out.ARN, nil
}

// reason is what STS says of a refusal.
func reason(body []byte, otherwise string) string {
	var out struct {
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
	}
	if err := xml.Unmarshal(body, &out); err != nil || out.Code == "" {
		return otherwise
	}
	return out.Code + ": " + out.Message
}

// Matches reports whether an ARN fits a pattern, in which * stands for any
// characters but : and /.
func Matches(pattern, arn string) bool {
	want, have := strings.Split(pattern, ":"), strings.SplitN(arn, ":", strings.Count(pattern, ":")+1)
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if i < len(want)-1 && strings.Contains(want[i], "/") {
			return false
		}
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok || strings.Contains(have[i], ":") {
			return false
		}
	}
	return true
}

// pattern is an ARN of an assumed role with the account said in full.
var pattern = regexp.MustCompile(`^arn:aws(-[a-z]+)*:sts::[0-9]{12}:assumed-role/[A-Za-z0-9+=,.@_*-]+/[A-Za-z0-9+=,.@_*-]+$`)

// CheckPattern refuses a pattern that matches nothing STS says, or that lets in
// accounts that are not named.
func CheckPattern(s string) error {
	if !pattern.MatchString(s) {
		return fault.Newf(fault.Invalid, "read role pattern", s, "it is not arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION").
			WithHint("write for example arn:aws:sts::123456789012:assumed-role/scorer/*")
	}
	return nil
}
