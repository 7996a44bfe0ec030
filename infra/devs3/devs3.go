// Package devs3 is an S3 server for development, the demo and tests: versitygw
// as a library over a folder. It speaks real S3 over real HTTP, with signatures,
// conditional writes and checksums.
//
// It is not durable: nothing is synced, so a power cut may lose objects that
// were acknowledged. It changes the process's working directory, so it runs as
// a process of its own: [Start] begins one, from any program that calls [Main]
// when it is started as "PROGRAM devs3 ...", and infra/devs3/cmd/devs3 is such
// a program.
package devs3

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/gofiber/fiber/v3"
	"github.com/pkg/xattr"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3event"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options says what is served. Dir must be given, the rest has defaults.
type Options struct {
	Dir       string // absolute; made when missing; object files lie in DIR/data/BUCKET
	Addr      string // host:port; port 0 picks a free one; default 127.0.0.1:0
	Bucket    string // made when missing; default "modelfleet"
	Region    string // default "us-east-1"
	AccessKey string // default "devkey"
	SecretKey string // default "devsecret"
	// Ready, when not nil, is called once the server answers.
	Ready func(addr string)
}

// Defaults fills the empty fields.
func (o Options) Defaults() Options {
	fill := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	fill(&o.Addr, "127.0.0.1:0")
	fill(&o.Bucket, "modelfleet")
	fill(&o.Region, "us-east-1")
	fill(&o.AccessKey, "devkey")
	fill(&o.SecretKey, "devsecret")
	return o
}

// Run serves until ctx is done; then it lets requests finish and returns nil.
// Only one may run in a process, see the package comment.
func Run(ctx context.Context, o Options) error {
	o = o.Defaults()
	if !filepath.IsAbs(o.Dir) {
		return fault.Newf(fault.Invalid, "serve S3", o.Dir, "not an absolute path")
	}
	data := filepath.Join(o.Dir, "data")
	if err := os.MkdirAll(filepath.Join(data, o.Bucket), 0o755); err != nil {
		return fault.New(fault.Invalid, "serve S3", o.Dir, err)
	}
	store, sidecar, err := metadata(o.Dir)
	if err != nil {
		return fault.New(fault.Invalid, "serve S3", o.Dir, err)
	}
	be, err := posix.New(data, store, posix.PosixOpts{
		SideCarDir:          sidecar,
		CopyObjectThreshold: 5 << 30, // the zero value would refuse every copy
	})
	if err != nil {
		return fault.New(fault.Internal, "serve S3", data, err)
	}
	for tries := 1; ; tries++ {
		err := serve(ctx, o, be)
		_, port, _ := net.SplitHostPort(o.Addr) // of no address: serve has said so
		if port != "0" || tries == 10 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		// Somebody else took the port that was free a moment ago: another one.
	}
}

// serve serves a backend at an address until ctx is done.
func serve(ctx context.Context, o Options, be backend.Backend) error {
	addr, err := freeAddr(o.Addr)
	if err != nil {
		return fault.New(fault.Conflict, "serve S3", o.Addr, err).
			WithHint("choose another address, or port 0 for a free one")
	}
	root := auth.Account{Access: o.AccessKey, Secret: o.SecretKey, Role: auth.RoleAdmin}
	listening := make(chan struct{})
	srv, err := s3api.New(be, middlewares.RootUserConfig{Access: o.AccessKey, Secret: o.SecretKey}, o.Region,
		auth.NewIAMServiceSingle(root), nil, nil, noEvents{}, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithConcurrencyLimiter(4096, 4096),
		s3api.WithOnListen(sync.OnceFunc(func() { close(listening) })))
	if err != nil {
		return fault.New(fault.Internal, "serve S3", o.Dir, err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeMultiPort([]string{addr}) }()
	select {
	case err := <-done:
		return fault.New(fault.Conflict, "serve S3", addr, err)
	case <-listening:
	}
	if o.Ready != nil {
		o.Ready(addr)
	}
	select {
	case err := <-done:
		return fault.New(fault.Internal, "serve S3", addr, err)
	case <-ctx.Done():
		err := srv.ShutDown()
		<-done // says that its listener was closed, which we know
		if errors.Is(err, context.DeadlineExceeded) {
			return nil // clients kept idle connections open past the gateway's patience; they are cut now
		}
		return err
	}
}

// freeAddr turns port 0 into a free port: the gateway opens its listener itself
// and does not tell which port it got.
func freeAddr(addr string) (string, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// metadata keeps object metadata in extended attributes where the file system
// has them, and in a folder beside the data elsewhere.
func metadata(dir string) (meta.MetadataStorer, string, error) {
	probe, err := os.CreateTemp(dir, ".xattr*")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = os.Remove(probe.Name()) }()
	if err := probe.Close(); err != nil {
		return nil, "", err
	}
	if err := xattr.Set(probe.Name(), "user.modelfleet", []byte("1")); err == nil {
		return meta.XattrMeta{}, "", nil
	}
	sidecar := filepath.Join(dir, "meta")
	if err := os.MkdirAll(sidecar, 0o755); err != nil {
		return nil, "", err
	}
	sc, err := meta.NewSideCar(sidecar)
	return sc, sidecar, err
}

// noEvents sends no bucket notifications.
type noEvents struct{}

func (noEvents) SendEvent(fiber.Ctx, s3event.EventMeta) {}
func (noEvents) Close() error                           { return nil }
