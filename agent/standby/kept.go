package standby

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/strict"
)

// kept is the content of the file.
type kept struct {
	Schema int            `json:"schema"` // 1
	Root   fleet.Digest   `json:"root"`   // that the device pinned
	Key    string         `json:"key"`    // of the pack in the bucket
	URL    string         `json:"url"`
	Since  time.Time      `json:"since"` // when it was handed out, by the device's clock
	Life   fleet.Duration `json:"life"`  // how long it is good from then on
}

const schema = 1

// maxURL bounds a URL: those that a session's credentials sign are long.
const maxURL = 8 << 10

// check refuses what cannot be the URL of an object.
func (k kept) check() error {
	const op = "take pack url"
	u, err := url.Parse(k.URL)
	switch {
	case len(k.URL) > maxURL:
		return fault.Newf(fault.Invalid, op, k.Key, "it has %d bytes, at most %d are taken", len(k.URL), maxURL)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fault.Newf(fault.Invalid, op, k.Key, "it is no http URL") // which it is stays a secret
	case k.Life <= 0: // its signer's session ends just now
		return fault.Newf(fault.Transient, op, k.Key, "it has ended already")
	case k.Life.D() > registry.MaxURLLife:
		return fault.Newf(fault.Invalid, op, k.Key, "a life of %s is more than %s", k.Life.D(), registry.MaxURLLife)
	}
	return nil
}

func (k kept) end() time.Time { return k.Since.Add(k.Life.D()) }

// host is all of the URL that may be shown.
func (k kept) host() string {
	u, err := url.Parse(k.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// load reads the file; without one there is no URL, and no error.
func load(path string) (kept, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept{}, nil
	}
	if err != nil {
		return kept{}, cas.Classify("read pack url", path, err)
	}
	k, err := parse(data)
	if err != nil {
		return kept{}, fault.New(fault.Invalid, "read pack url", path, err).WithHint("nothing need be done: the coordinator gives another")
	}
	return k, nil
}

func parse(data []byte) (kept, error) {
	var k kept
	if err := strict.Decode(data, &k); err != nil {
		return kept{}, errors.New("it is torn or no JSON of this program") // the decoder's error may quote the URL
	}
	if k.Schema != schema {
		return kept{}, errors.New("it is of another version of this program")
	}
	return k, k.check()
}

func save(path string, k kept, write func(string, []byte, fs.FileMode) error) error {
	data, err := json.Marshal(k)
	if err != nil {
		return fault.New(fault.Internal, "keep pack url", path, err)
	}
	return write(path, append(data, '\n'), 0o600)
}
