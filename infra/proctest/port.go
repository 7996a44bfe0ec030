package proctest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Ports are taken from below those that the kernel gives to outgoing connections,
// in turn, so that a port is free for as long as its test runs. Other programs like
// this one are on the machine: each has a block of ports for itself, whose first it
// listens on to say so.
//
// An agent serves its neighbours on the port after its gossip's, so each address
// that is given has the next port with it.
const firstPort, blocks, block = 12000, 40, 500

type ports struct {
	sign  net.Listener // on the block's first port, until this process ends
	first int
	given atomic.Int32
}

var own = sync.OnceValues(func() (*ports, error) {
	for _, n := range rand.Perm(blocks) {
		first := firstPort + n*block
		if l, err := net.Listen("tcp", loopback(first)); err == nil {
			return &ports{sign: l, first: first}, nil
		}
	}
	return nil, fault.Newf(fault.Exhausted, "find a free port", "127.0.0.1", "no block of ports is free")
})

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreeAddr is a loopback address that nobody listens on, by TCP or UDP, or will but
// who asked for it; nor on its next port.
func FreeAddr() (string, error) {
	p, err := own()
	if err != nil {
		return "", err
	}
	for range block / 2 {
		addr := loopback(p.first + 2 + 2*(int(p.given.Add(1))%(block/2-1))) // after the last, the first again
		t, err := net.Listen("tcp", addr)
		if err != nil {
			continue // taken
		}
		u, err := net.ListenPacket("udp", addr)
		if err == nil {
			err = u.Close()
		}
		if errors.Join(err, t.Close()) == nil {
			return addr, nil
		}
	}
	return "", fault.Newf(fault.Exhausted, "find a free port", "127.0.0.1", "no port from %d on is free", p.first)
}
