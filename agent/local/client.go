package local

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// DefaultSocket is where the agent listens unless told otherwise.
const DefaultSocket = "/run/modelfleet/agent.sock"

// ClientOptions says how an application reaches the agent.
type ClientOptions struct {
	Socket string // default DefaultSocket
	// App names the application on this device; default the program's name.
	// Two processes that run at once need two names.
	App string
}

// Client is an application's side of the API. It is safe for concurrent use.
// Every error is a [fault.Error].
type Client struct {
	app  string
	http *http.Client
}

// NewClient returns a client; it does not connect yet.
func NewClient(o ClientOptions) *Client {
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	if o.App == "" {
		o.App = filepath.Base(os.Args[0])
	}
	var d net.Dialer
	return &Client{app: o.App, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", o.Socket)
		},
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
	}}}
}

// List returns how all models stand.
func (c *Client) List(ctx context.Context) (Listing, error) {
	var l Listing
	return l, c.call(ctx, "GET", "/v1/models", nil, &l)
}

// Describe returns how one model stands.
func (c *Client) Describe(ctx context.Context, m fleet.ModelName) (Model, error) {
	var v Model
	return v, c.call(ctx, "GET", modelPath(m, ""), nil, &v)
}

// Load takes the current release. The files at its path stay until [Client.Unload].
func (c *Client) Load(ctx context.Context, m fleet.ModelName) (Loaded, error) {
	var v Loaded
	return v, c.call(ctx, "POST", modelPath(m, "/load"), LoadRequest{App: c.app}, &v)
}

// Unload gives a release back.
func (c *Client) Unload(ctx context.Context, l Loaded) error {
	return c.call(ctx, "POST", modelPath(l.Model, "/unload"), UnloadRequest{Lease: l.Lease}, nil)
}

// Refuse gives a release back that could not be loaded, and says why.
func (c *Client) Refuse(ctx context.Context, l Loaded, why string) error {
	return c.call(ctx, "POST", modelPath(l.Model, "/unload"), UnloadRequest{Lease: l.Lease, Failed: why}, nil)
}

// Observe reports what was observed with a release. A batch a second is plenty.
// When the lease is not known any more (the agent was restarted) the
// observations count all the same.
func (c *Client) Observe(ctx context.Context, l Loaded, obs ...Observation) error {
	req := ObserveRequest{Lease: l.Lease, Root: l.Root, Observations: obs}
	err := c.call(ctx, "POST", modelPath(l.Model, "/observe"), req, nil)
	if fault.Is(err, fault.NotFound) && req.Lease != "" {
		req.Lease = ""
		err = c.call(ctx, "POST", modelPath(l.Model, "/observe"), req, nil)
	}
	return err
}

// Lift lets a release that failed here be tried again.
func (c *Client) Lift(ctx context.Context, m fleet.ModelName, root fleet.Digest) error {
	return c.call(ctx, "POST", modelPath(m, "/lift"), LiftRequest{Root: root}, nil)
}

// Watch calls f with the model's state as it is and each time it changes, until
// ctx ends, the connection does, or f returns an error. With a lease, the
// connection carries it: when it drops, the application counts as gone.
func (c *Client) Watch(ctx context.Context, m fleet.ModelName, lease string, f func(Model) error) error {
	q := url.Values{"model": {string(m)}}
	if lease != "" {
		q.Set("lease", lease)
	}
	resp, err := c.send(ctx, "GET", "/v1/watch?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var v Model
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			return fault.New(fault.Invalid, "watch model", string(m), err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return fault.New(kindOf(ctx), "watch model", string(m), errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// Follow loads the model, calls use with it, and again with each release that
// the agent switches to; the release before is given back when use returned.
// When use fails, the agent hears it: while the release is watched, that takes it
// back. Follow waits for a release to appear and for an agent that is away, and
// returns only when ctx ends.
func (c *Client) Follow(ctx context.Context, m fleet.ModelName, use func(Loaded) error) error {
	f := &follower{c: c, model: m, use: use}
	// The connection that carries the lease outlives ctx by the goodbye: if it
	// dropped first, the agent would take a good end for a crash.
	conn, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	bye := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(bye)
		defer hangUp()
		f.goodbye(conn)
	})
	for ctx.Err() == nil {
		if err := f.once(ctx, conn); !errors.Is(err, errMoved{}) {
			pause(ctx, 100*time.Millisecond+rand.N(500*time.Millisecond))
		}
	}
	<-bye
	return fault.New(fault.Canceled, "follow model", string(m), ctx.Err())
}

// patience is how long an application that ends waits for the agent.
const patience = time.Second

// follower is one [Client.Follow] in progress.
type follower struct {
	c       *Client
	model   fleet.ModelName
	use     func(Loaded) error
	held    Loaded // the application uses it; without a lease when the agent forgot it
	refused Loaded // use failed with it

	taking sync.Mutex // held while a release is taken, and from the goodbye on
	lease  Loaded     // under taking: held, with the lease that is to be given back
}

// goodbye gives back what is held when the application ends: after what is being
// taken, and for good.
func (f *follower) goodbye(ctx context.Context) {
	f.taking.Lock()
	defer f.taking.Unlock()
	if f.lease.Lease == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// An agent that is away forgot the lease anyway.
	_ = f.c.Unload(ctx, f.lease)
}

// errMoved ends a watch because another release, or lease, is held now.
type errMoved struct{}

func (errMoved) Error() string { return "another release is held" }

// once watches until something changed; conn carries the watch, and outlives ctx.
func (f *follower) once(ctx, conn context.Context) error {
	if f.held.Lease == "" && (f.refused.Root.IsZero() || !f.held.Root.IsZero()) {
		if err := f.take(ctx, conn); err != nil {
			return err
		}
	}
	watch, stop := context.WithCancel(conn)
	defer stop()
	err := f.c.Watch(watch, f.model, f.held.Lease, func(v Model) error {
		if v.Serving == nil || same(*v.Serving, f.held) || same(*v.Serving, f.refused) {
			return nil
		}
		if err := f.take(ctx, conn); err != nil {
			return err
		}
		return errMoved{}
	})
	if fault.Is(err, fault.NotFound) {
		f.held.Lease = "" // the agent was restarted; what is used stays in use
	}
	return err
}

// take loads what serves now, lets the application use it and gives back what
// it held before. An application that ends meanwhile still hears of the lease that
// it was given: one that nobody gives back counts as a crash.
func (f *follower) take(ctx, conn context.Context) error {
	f.taking.Lock()
	defer f.taking.Unlock()
	next, err := f.load(ctx, conn)
	if err != nil {
		return err
	}
	if same(next.Release, f.held) {
		f.hold(next)
		return nil
	}
	if same(next.Release, f.refused) || ctx.Err() != nil {
		return f.c.Unload(conn, next)
	}
	if err := f.use(next); err != nil {
		f.refused = next
		return f.c.Refuse(conn, next, err.Error())
	}
	old := f.held
	f.hold(next)
	f.refused = Loaded{}
	if old.Lease == "" {
		return nil
	}
	if err := f.c.Unload(conn, old); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// load asks for what serves now, unless the application has ended.
func (f *follower) load(ctx, conn context.Context) (Loaded, error) {
	if ctx.Err() != nil {
		return Loaded{}, fault.New(fault.Canceled, "load model", string(f.model), ctx.Err())
	}
	late, cancel := context.WithCancel(conn)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		pause(late, patience)
		cancel()
	})()
	return f.c.Load(late, f.model)
}

func (f *follower) hold(l Loaded) { f.held, f.lease = l, l }

func same(r Release, l Loaded) bool {
	return r.Root == l.Root && r.Path == l.Path && r.Mended.Equal(l.Mended)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func modelPath(m fleet.ModelName, rest string) string {
	return "/v1/models/" + url.PathEscape(string(m)) + rest
}

func kindOf(ctx context.Context) fault.Kind {
	if ctx.Err() != nil {
		return fault.Canceled
	}
	return fault.Transient
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	op := strings.ToLower(method) + " " + path
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fault.New(fault.Invalid, op, "", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, "", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fault.New(kindOf(ctx), op, "", err).WithHint("is modelfleet-agent running, and may this user open its socket?")
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, api.ReadProblem(resp, op, "")
	}
	return resp, nil
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fault.New(kindOf(ctx), "read answer", path, err)
	}
	return nil
}
