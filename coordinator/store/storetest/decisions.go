package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

func directive(seq uint64) *store.Directive {
	return &store.Directive{Group: fleet.DefaultGroup, Sequence: seq, Body: fmt.Appendf(nil, `{"sequence":%d}`, seq), Issued: now}
}

func decisionsAreAllOrNothing(t *testing.T, s store.Store) {
	r := rollout("r1", now)
	ok(t, s.AddRollout(t.Context(), r, note(audit.RolloutStarted, "r1")))
	ok(t, s.Commit(t.Context(), store.Decision{Directive: directive(1)}))
	r.Status = []byte(`{"state":"succeeded"}`)
	bad := store.Decision{Rollouts: []store.Rollout{r}, Directive: directive(7), Notes: []audit.Note{note(audit.RolloutDecided, "r1")}}
	wantKind(t, s.Commit(t.Context(), bad), fault.Conflict)
	if got := must(s.Rollout(t.Context(), "r1"))(t); string(got.Status) != `{"state":"running"}` {
		t.Errorf("status %s was written by a refused decision", got.Status)
	}
	if got := must(s.AuditTail(t.Context(), 1))(t); got[0].Action != audit.RolloutStarted {
		t.Errorf("a refused decision left the note %+v", got[0])
	}
	bad.Directive = directive(2)
	ok(t, s.Commit(t.Context(), bad))
	if diff := cmp.Diff(r, must(s.Rollout(t.Context(), "r1"))(t)); diff != "" {
		t.Errorf("rollout (-want +got):\n%s", diff)
	}
	unknown := store.Decision{Rollouts: []store.Rollout{rollout("r9", now)}, Directive: directive(3)}
	wantKind(t, s.Commit(t.Context(), unknown), fault.NotFound)
	if got := must(s.Directive(t.Context(), fleet.DefaultGroup))(t); got.Sequence != 2 {
		t.Errorf("directive %d was written by a refused decision", got.Sequence)
	}
}

func directivesFollowEachOther(t *testing.T, s store.Store) {
	_, err := s.Directive(t.Context(), fleet.DefaultGroup)
	wantKind(t, err, fault.NotFound)
	for seq := uint64(11); seq <= 13; seq++ {
		ok(t, s.Commit(t.Context(), store.Decision{Directive: directive(seq)}))
	}
	wantKind(t, s.Commit(t.Context(), store.Decision{Directive: directive(13)}), fault.Conflict)
	wantKind(t, s.Commit(t.Context(), store.Decision{Directive: directive(15)}), fault.Conflict)
	if diff := cmp.Diff(*directive(13), must(s.Directive(t.Context(), fleet.DefaultGroup))(t)); diff != "" {
		t.Errorf("directive (-want +got):\n%s", diff)
	}
	ok(t, s.MarkPublished(t.Context(), fleet.DefaultGroup, 13, now, note(audit.PackPublished, "default")))
	if got := must(s.Directive(t.Context(), fleet.DefaultGroup))(t); !got.Published.Equal(now) {
		t.Errorf("published %v, want %v", got.Published, now)
	}
	wantKind(t, s.MarkPublished(t.Context(), fleet.DefaultGroup, 9, now), fault.NotFound)
}

func commandsAreNumberedWithoutGaps(t *testing.T, s store.Store) {
	for _, c := range []api.Command{api.Pause, api.Resume} {
		for _, id := range []fleet.RolloutID{"r1", "r2"} {
			ok(t, s.AddCommand(t.Context(), store.Command{Rollout: id, Command: c, By: "ann", At: now, Hold: true}, note(audit.RolloutCommanded, "r1")))
		}
	}
	got := must(s.Commands(t.Context(), "r2", 0))(t)
	if len(got) != 2 || got[0].Command != api.Pause || got[0].Seq != 1 || got[1].Seq != 2 || !got[0].Hold {
		t.Fatalf("got %+v, want pause, resume", got)
	}
	if left := must(s.Commands(t.Context(), "r2", 1))(t); len(left) != 1 || left[0].Command != api.Resume {
		t.Errorf("got %+v, want resume", left)
	}
}

func standingsAreReplaced(t *testing.T, s store.Store) {
	standing := func(member, body string) store.Standing {
		return store.Standing{Rollout: "r1", Member: fleet.MemberID(member), Body: []byte(body)}
	}
	ok(t, s.Commit(t.Context(), store.Decision{Standings: []store.Standing{standing("b", `1`), standing("a", `2`)}}))
	ok(t, s.Commit(t.Context(), store.Decision{Standings: []store.Standing{standing("b", `3`), {Rollout: "r2", Member: "b", Body: []byte(`4`)}}}))
	if diff := cmp.Diff([]store.Standing{standing("a", `2`), standing("b", `3`)}, must(s.Standings(t.Context(), "r1"))(t)); diff != "" {
		t.Errorf("standings (-want +got):\n%s", diff)
	}
}

func aPublicationIsKeptUntilForgotten(t *testing.T, s store.Store) {
	for _, want := range []string{"", "first", "second", ""} {
		if want != "" {
			ok(t, s.SavePublication(t.Context(), []byte(want)))
		} else {
			ok(t, s.SavePublication(t.Context(), nil))
		}
		if got := must(s.Publication(t.Context()))(t); string(got) != want || (got == nil) != (want == "") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func samplesAreInOrder(t *testing.T, s store.Store) {
	for _, n := range []int{2, 1} {
		at := now.Add(time.Duration(n) * time.Second)
		d := store.Decision{Samples: map[fleet.RolloutID]api.Sample{"r1": {At: at, Exposed: api.ArmInfo{Members: n}}}}
		ok(t, s.Commit(t.Context(), d))
	}
	got := must(s.Samples(t.Context(), "r1"))(t)
	if len(got) != 2 || got[0].Exposed.Members != 1 {
		t.Errorf("got %+v, want them by time", got)
	}
}

// size checks that the tree is the one over the leaves, and counts them.
func size(t *testing.T, s store.Store) uint64 {
	t.Helper()
	n := must(s.AuditSize(t.Context()))(t)
	tree := &ledger.Tree{}
	for _, leaf := range must(s.AuditLeaves(t.Context(), 0, int(n)+1))(t) {
		ok(t, tree.Append(leaf))
	}
	want := must(tree.Root(n))(t)
	if got := must(ledger.RootOf(n, s.AuditHashes(t.Context())))(t); got != want || tree.Size() != n {
		t.Errorf("root hash %s over %d entries, want %s over %d", got, n, want, tree.Size())
	}
	return n
}

func theAuditTreeHolds(t *testing.T, s store.Store) {
	long := audit.Note{At: now, Actor: "x", Action: "three", Detail: map[string]string{"html": strings.Repeat("<b>", ledger.MaxDetail)}}
	ok(t, s.Append(t.Context(), note("one", "a"), note("two", "b"), long))
	ok(t, s.Append(t.Context(), note("four", "d")))
	all := must(s.Audit(t.Context(), 0, 10))(t)
	if n := size(t, s); n != 4 || len(all) != 4 || all[3].Action != "four" || !all[0].At.Equal(now) {
		t.Errorf("%d entries, listed %+v", n, all)
	}
	leaves := must(s.AuditLeaves(t.Context(), 0, 10))(t)
	for i, e := range all {
		if leaf, _, err := e.Leaf(); err != nil || !bytes.Equal(leaf, leaves[i]) {
			t.Errorf("entry %d as listed makes the leaf %s (%v), want %s", e.Index, leaf, err, leaves[i])
		}
	}
	if e := must(ledger.ParseEntry(leaves[2]))(t); e.Aside == nil || len(must(s.AuditAside(t.Context(), e.Aside.Digest))(t)) != int(e.Aside.Size) {
		t.Errorf("a long detail does not lie aside: %+v", e)
	}
	tail := must(s.AuditTail(t.Context(), 2))(t)
	if diff := cmp.Diff(all[2:], tail); diff != "" {
		t.Errorf("tail (-want +got):\n%s", diff)
	}
	if page := must(s.Audit(t.Context(), 1, 2))(t); len(page) != 2 || page[0].Index != 2 {
		t.Errorf("page %+v, want entries 2 and 3", page)
	}
	if i, _, err := s.AuditNewest(t.Context(), "two", "b"); i != 1 || err != nil {
		t.Errorf("newest: index %d, %v", i, err)
	}
}

// What is restored has to be what was signed; else nothing is kept.
func theAuditLogIsRestoredWhole(t *testing.T, s store.Store) {
	ok(t, s.Append(t.Context(), note("one", "a"), note("two", "b")))
	leaves := must(s.AuditLeaves(t.Context(), 0, 10))(t)
	refused := errors.New("another root")
	if err := s.RestoreAudit(t.Context(), leaves, nil, func(tlog.HashReader) error { return refused }); !errors.Is(err, refused) || size(t, s) != 2 {
		t.Errorf("a false log was kept: %d entries, %v", size(t, s), err)
	}
	ok(t, s.RestoreAudit(t.Context(), leaves, [][]byte{[]byte("{}")}, func(r tlog.HashReader) error {
		_, err := ledger.RootOf(4, r)
		return err
	}))
	if size(t, s) != 4 {
		t.Errorf("%d entries, want 4", size(t, s))
	}
	must(s.AuditAside(t.Context(), fleet.DigestOf([]byte("{}"))))(t)
}

func evidenceIsKeptOnce(t *testing.T, s store.Store) {
	v := api.AuditSplit{Found: now, Member: "a", Ours: "x", Theirs: "y", Why: "other"}
	for i, want := range []bool{true, false} {
		if added := must(s.AddSplit(t.Context(), v, note(audit.SplitFound, "a")))(t); added != want {
			t.Errorf("time %d: added %t", i, added)
		}
	}
	if got := must(s.Splits(t.Context()))(t); len(got) != 1 || got[0].Theirs != "y" || size(t, s) != 1 {
		t.Errorf("evidence %+v, %d entries", got, size(t, s))
	}
	for _, n := range []uint64{3, 9, 5} {
		ok(t, s.SaveAuditHead(t.Context(), n, "note"))
	}
	if got := must(s.AuditHeads(t.Context(), 2))(t); !slices.Equal(got, []uint64{9, 5}) {
		t.Errorf("heads %v", got)
	}
}

func aRefusedChangeLeavesNoNote(t *testing.T, s store.Store) {
	wantKind(t, s.SaveMember(t.Context(), member("a", "t1"), note(audit.MemberRevoked, "a")), fault.NotFound)
	wantKind(t, s.DeleteToken(t.Context(), "t1", note(audit.TokenDeleted, "t1")), fault.NotFound)
	if got := must(s.AuditTail(t.Context(), 10))(t); len(got) != 0 {
		t.Errorf("got %+v, want an empty log", got)
	}
}

func rolloutsAreListedNewestFirst(t *testing.T, s store.Store) {
	ok(t, s.AddRollout(t.Context(), rollout("r1", now), note(audit.RolloutStarted, "r1")))
	ok(t, s.AddRollout(t.Context(), rollout("r2", now.Add(time.Second)), note(audit.RolloutStarted, "r2")))
	wantKind(t, s.AddRollout(t.Context(), rollout("r2", now), note(audit.RolloutStarted, "r2")), fault.Conflict)
	ended := rollout("r1", now)
	ended.Ended = now.Add(time.Hour)
	ok(t, s.Commit(t.Context(), store.Decision{Rollouts: []store.Rollout{ended}}))
	all, live := must(s.Rollouts(t.Context(), false))(t), must(s.Rollouts(t.Context(), true))(t)
	if len(all) != 2 || all[0].ID != "r2" || len(live) != 1 || live[0].ID != "r2" {
		t.Errorf("all %+v\nlive %+v", all, live)
	}
}

func manyWritersMakeOneTree(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 10 {
				if err := s.Append(t.Context(), note("w", fmt.Sprint(w, "/", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := size(t, s); n != 80 {
		t.Errorf("%d entries, want 80", n)
	}
}

func whatIsNotThereIsSaidToBeMissing(t *testing.T, s store.Store) {
	_, err := s.Token(t.Context(), "none")
	wantKind(t, err, fault.NotFound)
	_, err = s.Rollout(t.Context(), "none")
	wantKind(t, err, fault.NotFound)
	wantKind(t, s.DeleteOperator(t.Context(), "none", note(audit.OperatorDeleted, "none")), fault.NotFound)
}

// seed puts one of everything into the store.
func seed(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 2), note(audit.TokenCreated, "t1")))
	ok(t, s.Enrol(t.Context(), member("a", "t1"), now, note(audit.MemberEnrolled, "a")))
	ok(t, s.AddCell(t.Context(), store.Cell{ID: "a/0", Site: "a", Key: []byte("key")}))
	ok(t, s.AddOperator(t.Context(), store.Operator{Name: "ann", Role: api.Viewer, Created: now}, note(audit.OperatorCreated, "ann")))
	ok(t, s.SaveMessages(t.Context(), []store.Message{{Received: now, Via: "direct", Bytes: []byte("row")}}))
	ok(t, s.Admit(t.Context(), store.Admission{Admitted: []store.Release{release("m", "1")}}, note(audit.ReleaseAdmitted, "m@1")))
	ok(t, s.AddRollout(t.Context(), rollout("r1", now), note(audit.RolloutStarted, "r1")))
	ok(t, s.AddCommand(t.Context(), store.Command{Rollout: "r1", Command: api.Pause, By: "ann", At: now}, note(audit.RolloutCommanded, "r1")))
	ok(t, s.Commit(t.Context(), store.Decision{Directive: directive(1), Standings: []store.Standing{{Rollout: "r1", Member: "a", Body: []byte(`{}`)}}, Samples: map[fleet.RolloutID]api.Sample{"r1": {At: now}}, Notes: []audit.Note{note(audit.DirectiveIssued, "default")}}))
}

// everything is all that the store can list.
func everything(t *testing.T, s store.Store) []any {
	return []any{
		must(s.Members(t.Context()))(t), must(s.Cells(t.Context()))(t), must(s.Tokens(t.Context()))(t), must(s.Operators(t.Context()))(t),
		must(s.Messages(t.Context()))(t), must(s.Releases(t.Context()))(t), must(s.Rollouts(t.Context(), false))(t), must(s.Commands(t.Context(), "r1", 0))(t), must(s.Standings(t.Context(), "r1"))(t),
		must(s.Samples(t.Context(), "r1"))(t), must(s.Directive(t.Context(), fleet.DefaultGroup))(t), must(s.Audit(t.Context(), 0, 100))(t),
	}
}
