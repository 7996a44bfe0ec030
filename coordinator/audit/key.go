package audit

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// key is a pair of keys that signs checkpoints; the zero value is none.
type key struct {
	note.Signer
	verifier note.Verifier
	public   string
}

// open finds the private key of a public one.
func (l *Log) open(ctx context.Context, public string) (key, error) {
	v, err := ledger.ParseKey(public)
	if err != nil {
		return key{}, fault.New(fault.Invalid, "open audit key", public, err)
	}
	s, err := l.o.Keys(ctx, public)
	return key{s, v, public}, err
}

// take signs with another key from now on; the caller holds mu. The checkpoint that
// the former key signed stays in the bucket, and the head, until the next is there.
func (l *Log) take(ctx context.Context, public string) error {
	if public == l.key.public {
		return nil
	}
	next, err := l.open(ctx, public)
	if err != nil {
		return err
	}
	if err := l.record(ctx, next); err != nil {
		return err
	}
	l.o.Logger.Info("signing the audit log with the key that the policy lists now", "key", public)
	l.key = next
	return nil
}

// record has the log say which key signs it from there on, so that whoever keeps a
// checkpoint by one key finds it in the log that another signs.
func (l *Log) record(ctx context.Context, k key) error {
	_, leaf, err := l.o.Store.AuditNewest(ctx, KeyTaken, k.Name())
	if err == nil {
		e, err := ledger.ParseEntry(leaf)
		if err != nil {
			return fault.New(fault.Internal, "open audit log", KeyTaken, err)
		}
		if before, err := e.Key(); err == nil && before == k.public {
			return nil
		}
	} else if !fault.Is(err, fault.NotFound) {
		return err
	}
	return l.o.Store.Append(ctx, Note{
		At: time.Now().UTC(), Actor: Coordinator, Action: KeyTaken, Subject: k.Name(),
		Reason: fmt.Sprintf("signed with key %08x from here on", k.KeyHash()), Detail: ledger.KeyDetail{Key: k.public},
	})
}
