package s3_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
)

// How long a URL is good: as long as was asked, as S3 takes, and as the credentials
// that signed it, whichever is shortest. Another profile's may last longer.
func TestHowLongAURLIsGood(t *testing.T) {
	p := server(t) // its process has the environment as it was
	home := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ends := time.Now().Add(6 * time.Hour).UTC().Truncate(time.Second)
	session := write("session", "#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":\""+p.AccessKey+"\",\"SecretAccessKey\":\""+p.SecretKey+"\",\"Expiration\":\""+ends.Format(time.RFC3339)+"\"}'\n", 0o700)
	t.Setenv("AWS_CONFIG_FILE", write("config", "[profile role]\ncredential_process = "+session+"\n", 0o600))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", write("credentials", "[user]\naws_access_key_id = "+p.AccessKey+"\naws_secret_access_key = "+p.SecretKey+"\n", 0o600))
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_PROFILE", "role")
	byRole := func(o *s3.Options) { o.AccessKey, o.SecretKey = "", "" }
	byUser := func(o *s3.Options) { byRole(o); o.URLProfile = "user" }
	if _, err := open(t, p, nil).Create(t.Context(), "signed", registry.BodyOf([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		with func(*s3.Options)
		ttl  time.Duration
		want time.Duration
	}{
		"keys, as asked":                 {nil, time.Hour, time.Hour},
		"keys, longer than S3 takes":     {nil, 30 * 24 * time.Hour, registry.MaxURLLife},
		"a session, shorter than it":     {byRole, time.Hour, time.Hour},
		"a session, longer than it":      {byRole, registry.MaxURLLife, time.Until(ends)},
		"a user's keys beside a session": {byUser, registry.MaxURLLife, registry.MaxURLLife},
	} {
		urls, expires, err := open(t, p, c.with).Sign(t.Context(), []string{"signed", "signed"}, c.ttl)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Until(expires); (got-c.want).Abs() > time.Minute || got > c.want {
			t.Errorf("%s: good for %s, want %s", name, got, c.want)
		}
		resp, err := http.Get(urls[1])
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	_, err := s3.Open(t.Context(), s3.Options{Bucket: p.Bucket, Endpoint: p.Endpoint, Region: p.Region, URLProfile: "nobody"})
	if !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("a profile that is not there: %v", err)
	}
}
