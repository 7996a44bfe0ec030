package audit

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

var errUnsigned = errors.New("this fleet's audit log is not signed")

// Judge says whether somebody was shown another log than this one: why is "" when
// the checkpoint, size and root hash, is of it. A root hash of which only a
// beginning is known is compared as far as it goes.
func (l *Log) Judge(ctx context.Context, size uint64, root []byte) (why string, err error) {
	if size == 0 || len(root) == 0 || len(root) > tlog.HashSize {
		return "", nil
	}
	have, err := l.o.Store.AuditSize(ctx)
	if err != nil {
		return "", err
	}
	if size > have {
		return fmt.Sprintf("it was shown a log of %d entries, ours has %d", size, have), nil
	}
	ours, err := ledger.RootOf(size, l.o.Store.AuditHashes(ctx))
	if err != nil {
		return "", fault.New(fault.Internal, "compare checkpoint", "", err)
	}
	if string(ours[:len(root)]) != string(root) {
		return fmt.Sprintf("it was shown a log whose first %d entries are not ours", size), nil
	}
	return "", nil
}

// JudgeNote is [Log.Judge] of a signed checkpoint. One that the log's key did not
// sign is Untrusted: it says nothing.
func (l *Log) JudgeNote(ctx context.Context, signed string) (why string, err error) {
	l.mu.Lock()
	k := l.key
	l.mu.Unlock()
	if k.public == "" {
		return "", fault.New(fault.Untrusted, "compare checkpoint", "", errUnsigned)
	}
	c, err := ledger.Open(signed, k.verifier)
	if err != nil {
		return "", fault.New(fault.Untrusted, "compare checkpoint", "", err)
	}
	return l.Judge(ctx, c.Size, c.Root[:])
}
