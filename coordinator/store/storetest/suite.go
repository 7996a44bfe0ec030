// Package storetest is the contract of package store as tests: every
// implementation passes [Suite], so that they can be exchanged.
package storetest

import (
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// now is the time of everything in the suite.
var now = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)

// Suite runs the contract. open returns an empty store that is closed by the
// test's cleanup; reopen closes s and opens the same memory again.
func Suite(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, s store.Store) store.Store) {
	laws := map[string]func(*testing.T, store.Store){
		"EnrolUsesTheTokenOnce":            enrolUsesTheTokenOnce,
		"EnrolAgainByAnotherTokenSpendsIt": enrolAgainByAnotherTokenSpendsIt,
		"ATakenIDIsAConflict":              aTakenIDIsAConflict,
		"AKeyBelongsToOneMember":           aKeyBelongsToOneMember,
		"ASpentTokenIsDenied":              aSpentTokenIsDenied,
		"SaveMemberReplaces":               saveMemberReplaces,
		"WaitingTakesTheUse":               waitingTakesTheUse,
		"CellsKeepTheirFirstKey":           cellsKeepTheirFirstKey,
		"TokensComeAndGo":                  tokensComeAndGo,
		"OperatorsAreFoundByTheirToken":    operatorsAreFoundByTheirToken,
		"SessionsEnd":                      sessionsEnd,
		"MessagesAreKeptOnce":              messagesAreKeptOnce,
		"ReleasesAreRevokedAndComeBack":    releasesAreRevokedAndComeBack,
		"DecisionsAreAllOrNothing":         decisionsAreAllOrNothing,
		"DirectivesFollowEachOther":        directivesFollowEachOther,
		"CommandsAreNumberedWithoutGaps":   commandsAreNumberedWithoutGaps,
		"StandingsAreReplaced":             standingsAreReplaced,
		"APublicationIsKeptUntilForgotten": aPublicationIsKeptUntilForgotten,
		"SamplesAreInOrder":                samplesAreInOrder,
		"TheAuditTreeHolds":                theAuditTreeHolds,
		"TheAuditLogIsRestoredWhole":       theAuditLogIsRestoredWhole,
		"EvidenceIsKeptOnce":               evidenceIsKeptOnce,
		"ARefusedChangeLeavesNoNote":       aRefusedChangeLeavesNoNote,
		"RolloutsAreListedNewestFirst":     rolloutsAreListedNewestFirst,
		"ManyWritersMakeOneTree":           manyWritersMakeOneTree,
		"WhatIsNotThereIsSaidToBeMissing":  whatIsNotThereIsSaidToBeMissing,
	}
	for name, law := range laws {
		t.Run(name, func(t *testing.T) { law(t, open(t)) })
	}
	t.Run("EverythingOutlivesAReopening", func(t *testing.T) {
		s := open(t)
		seed(t, s)
		before := everything(t, s)
		s = reopen(t, s)
		if diff := cmp.Diff(before, everything(t, s), cmpopts.EquateEmpty(), cmp.AllowUnexported(fleet.Selector{})); diff != "" {
			t.Errorf("changed by reopening (-before +after):\n%s", diff)
		}
	})
}

func note(action, subject string) audit.Note {
	return audit.Note{At: now, Actor: "ann", Action: action, Subject: subject, Reason: "because <&>", Detail: map[string]any{"n": 1, "html": "<b>"}}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if _, classified := errors.AsType[*fault.Error](err); !classified || !fault.Is(err, kind) {
		t.Fatalf("got %v (%v), want a fault of kind %v", err, fault.KindOf(err), kind)
	}
}

func token(id string, uses int) store.Token {
	return store.Token{
		Token: api.Token{ID: id, Group: fleet.DefaultGroup, Kind: fleet.Device, Labels: fleet.Labels{"site": "a"}, Uses: uses, Expires: now.Add(time.Hour)},
		By:    "ann", SecretHash: fleet.DigestOf([]byte(id)),
	}
}

func member(id, token string) store.Member {
	pub := []byte("public key of " + id)
	sum := sha256.Sum256(pub)
	return store.Member{
		Facts:     fleet.Facts{ID: fleet.MemberID(id), Kind: fleet.Device, Group: fleet.DefaultGroup, Labels: fleet.Labels{"site": "a"}, Enrolled: now.Truncate(time.Second)},
		PublicKey: pub, KeyID: telemetry.KeyID(sum[:8]), Cell: "a/0", Generation: 1, Expires: now.Add(time.Hour), Token: token,
	}
}

func rollout(id string, at time.Time) store.Rollout {
	return store.Rollout{
		ID: fleet.RolloutID(id), Group: fleet.DefaultGroup, Release: release("m", id).Release, Author: "ann", Started: at,
		Spec: []byte(`{"stages":[]}`), Status: []byte(`{"state":"running"}`),
	}
}

func release(model, version string) store.Release {
	return store.Release{
		Release: fleet.Release{Team: "vision", Model: fleet.ModelName(model), Version: fleet.Version(version), Counter: 1,
			Variants: []fleet.Variant{{Name: "default", Root: fleet.DigestOf([]byte(version)), Size: 7}}},
		Admitted: now, By: "ann", Metrics: map[string]float64{"accuracy": 0.9},
	}
}

func enrolUsesTheTokenOnce(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 1), note(audit.TokenCreated, "t1")))
	m := member("a", "t1")
	ok(t, s.Enrol(t.Context(), m, now, note(audit.MemberEnrolled, "a")))
	m.Generation = 2
	ok(t, s.Enrol(t.Context(), m, now.Add(2*time.Hour), note(audit.MemberEnrolled, "a"))) // the answer was lost
	if got := must(s.Token(t.Context(), "t1"))(t); got.Used != 1 {
		t.Errorf("token used %d times, want once", got.Used)
	}
	got := must(s.Members(t.Context()))(t)
	if len(got) != 1 || got[0].Generation != 2 {
		t.Errorf("got %+v, want one member of generation 2", got)
	}
}

func enrolAgainByAnotherTokenSpendsIt(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 1), note(audit.TokenCreated, "t1")))
	ok(t, s.AddToken(t.Context(), token("t2", 1), note(audit.TokenCreated, "t2")))
	ok(t, s.Enrol(t.Context(), member("a", "t1"), now, note(audit.MemberEnrolled, "a")))
	back := member("a", "t2")
	wantKind(t, s.Enrol(t.Context(), back, now.Add(2*time.Hour), note(audit.MemberEnrolled, "a")), fault.Denied) // expired
	wantKind(t, s.Enrol(t.Context(), member("a", "none"), now, note(audit.MemberEnrolled, "a")), fault.Denied)
	ok(t, s.Enrol(t.Context(), back, now, note(audit.MemberEnrolled, "a")))
	if got := must(s.Token(t.Context(), "t2"))(t); got.Used != 1 {
		t.Errorf("token used %d times, want once", got.Used)
	}
	if got := must(s.Members(t.Context()))(t); len(got) != 1 || got[0].Token != "t2" {
		t.Errorf("got %+v, want one member that came back by t2", got)
	}
}

func aTakenIDIsAConflict(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 5), note(audit.TokenCreated, "t1")))
	ok(t, s.Enrol(t.Context(), member("a", "t1"), now, note(audit.MemberEnrolled, "a")))
	other := member("b", "t1")
	other.Facts.ID = "a"
	wantKind(t, s.Enrol(t.Context(), other, now, note(audit.MemberEnrolled, "a")), fault.Conflict)
	if got := must(s.Token(t.Context(), "t1"))(t); got.Used != 1 {
		t.Errorf("token used %d times, want once", got.Used)
	}
}

func aKeyBelongsToOneMember(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 5), note(audit.TokenCreated, "t1")))
	ok(t, s.Enrol(t.Context(), member("a", "t1"), now, note(audit.MemberEnrolled, "a")))
	clone := member("a", "t1")
	clone.Facts.ID = "b"
	wantKind(t, s.Enrol(t.Context(), clone, now, note(audit.MemberEnrolled, "b")), fault.Conflict)
}

func aSpentTokenIsDenied(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 1), note(audit.TokenCreated, "t1")))
	wantKind(t, s.Enrol(t.Context(), member("a", "none"), now, note(audit.MemberEnrolled, "a")), fault.Denied)
	wantKind(t, s.Enrol(t.Context(), member("a", "t1"), now.Add(time.Hour), note(audit.MemberEnrolled, "a")), fault.Denied)
	ok(t, s.Enrol(t.Context(), member("a", "t1"), now, note(audit.MemberEnrolled, "a")))
	wantKind(t, s.Enrol(t.Context(), member("b", "t1"), now, note(audit.MemberEnrolled, "b")), fault.Denied)
}

func saveMemberReplaces(t *testing.T, s store.Store) {
	m := member("a", "t1")
	wantKind(t, s.SaveMember(t.Context(), m), fault.NotFound)
	ok(t, s.AddToken(t.Context(), token("t1", 1), note(audit.TokenCreated, "t1")))
	ok(t, s.Enrol(t.Context(), m, now, note(audit.MemberEnrolled, "a")))
	m.Revoked = true
	ok(t, s.SaveMember(t.Context(), m, note(audit.MemberRevoked, "a")))
	got := must(s.Members(t.Context()))(t)
	if diff := cmp.Diff([]store.Member{m}, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func cellsKeepTheirFirstKey(t *testing.T, s store.Store) {
	first := store.Cell{ID: "a/0", Site: "a", Key: []byte("first")}
	ok(t, s.AddCell(t.Context(), first))
	ok(t, s.AddCell(t.Context(), store.Cell{ID: "a/0", Site: "a", Key: []byte("second")}))
	if diff := cmp.Diff([]store.Cell{first}, must(s.Cells(t.Context()))(t)); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
}

func tokensComeAndGo(t *testing.T, s store.Store) {
	withText := token("t1", 2)
	withText.Text = "the secret"
	ok(t, s.AddToken(t.Context(), withText, note(audit.TokenCreated, "t1")))
	if diff := cmp.Diff(token("t1", 2), must(s.Token(t.Context(), "t1"))(t)); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	ok(t, s.DeleteToken(t.Context(), "t1", note(audit.TokenDeleted, "t1")))
	wantKind(t, s.DeleteToken(t.Context(), "t1", note(audit.TokenDeleted, "t1")), fault.NotFound)
	if got := must(s.Tokens(t.Context()))(t); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// sameText compares selectors by what they say.
func sameText() cmp.Option {
	return cmp.Comparer(func(a, b fleet.Selector) bool { return a.String() == b.String() })
}

func operatorsAreFoundByTheirToken(t *testing.T, s store.Store) {
	selectors := sameText()
	o := store.Operator{Name: "ann", Role: api.Admin, TokenHash: fleet.DigestOf([]byte("x")), Created: now}
	ok(t, s.AddOperator(t.Context(), o, note(audit.OperatorCreated, "ann")))
	wantKind(t, s.AddOperator(t.Context(), o, note(audit.OperatorCreated, "ann")), fault.Conflict)
	if diff := cmp.Diff(o, must(s.OperatorByToken(t.Context(), o.TokenHash))(t), cmp.AllowUnexported(fleet.Selector{})); diff != "" {
		t.Errorf("operator (-want +got):\n%s", diff)
	}
	ok(t, s.TouchOperator(t.Context(), "ann", now.Add(time.Minute)))
	o.Used, o.TokenHash, o.Scope.Models = now.Add(time.Minute), fleet.DigestOf([]byte("y")), []string{"vision/*"}
	old := o
	old.TokenHash = fleet.DigestOf([]byte("x"))
	if got := must(s.OperatorByToken(t.Context(), old.TokenHash))(t); !got.Used.Equal(o.Used) {
		t.Errorf("last used at %s, want %s", got.Used, o.Used)
	}
	ok(t, s.SaveOperator(t.Context(), o, note(audit.OperatorRotated, "ann")))
	if diff := cmp.Diff(o, must(s.OperatorByToken(t.Context(), o.TokenHash))(t), selectors); diff != "" {
		t.Errorf("operator with a new token (-want +got):\n%s", diff)
	}
	_, err := s.OperatorByToken(t.Context(), old.TokenHash)
	wantKind(t, err, fault.NotFound)
	ok(t, s.DeleteOperator(t.Context(), "ann", note(audit.OperatorDeleted, "ann")))
	_, err = s.OperatorByToken(t.Context(), o.TokenHash)
	wantKind(t, err, fault.NotFound)
	wantKind(t, s.SaveOperator(t.Context(), o, note(audit.OperatorRotated, "ann")), fault.NotFound)
}

func sessionsEnd(t *testing.T, s store.Store) {
	selectors := sameText()
	session := func(name string) store.Session {
		return store.Session{Hash: fleet.DigestOf([]byte(name)), Kind: store.BrowserSession, Name: name, Claims: &store.Claims{Issuer: "https://login.example", Subject: name, Name: name, Groups: []string{"ml"}}, Created: now, Seen: now, Expires: now.Add(time.Hour)}
	}
	ok(t, s.AddSession(t.Context(), session("ann"), note(audit.OperatorSignedIn, "ann")))
	ok(t, s.AddSession(t.Context(), session("bob"), note(audit.OperatorSignedIn, "bob")))
	ok(t, s.TouchSession(t.Context(), session("ann").Hash, now.Add(time.Minute)))
	want := session("ann")
	want.Seen = now.Add(time.Minute)
	if diff := cmp.Diff(want, must(s.Session(t.Context(), want.Hash))(t), selectors); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
	both := []fleet.Digest{want.Hash, fleet.DigestOf([]byte("nobody"))}
	ok(t, s.EndSessions(t.Context(), both, "ann signed out", note(audit.OperatorSignedOut, "ann")))
	want.Over = "ann signed out"
	if diff := cmp.Diff(want, must(s.Session(t.Context(), want.Hash))(t), selectors); diff != "" {
		t.Errorf("ended session (-want +got):\n%s", diff)
	}
	ok(t, s.ForgetSessions(t.Context(), both))
	_, err := s.Session(t.Context(), want.Hash)
	wantKind(t, err, fault.NotFound)
	if got := must(s.Sessions(t.Context()))(t); len(got) != 1 || got[0].Name != "bob" {
		t.Errorf("got %+v, want bob's alone", got)
	}
}

func messagesAreKeptOnce(t *testing.T, s store.Store) {
	message := func(text string) store.Message {
		return store.Message{Received: now, Via: "relay", Bytes: []byte(text)}
	}
	ok(t, s.SaveMessages(t.Context(), []store.Message{message("b"), message("a"), message("b")}))
	ok(t, s.SaveMessages(t.Context(), []store.Message{message("a"), message("c")}))
	ok(t, s.SaveMessages(t.Context(), nil))
	if diff := cmp.Diff([]store.Message{message("b"), message("a"), message("c")}, must(s.Messages(t.Context()))(t)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if n := must(s.KeepMessages(t.Context(), map[fleet.Digest]bool{message("a").ID(): true}))(t); n != 2 {
		t.Errorf("dropped %d, want 2", n)
	}
	if diff := cmp.Diff([]store.Message{message("a")}, must(s.Messages(t.Context()))(t)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func releasesAreRevokedAndComeBack(t *testing.T, s store.Store) {
	r := release("m", "1.0")
	ok(t, s.Admit(t.Context(), store.Admission{Team: "vision", Admitted: []store.Release{r}}, note(audit.ReleaseAdmitted, r.Ref())))
	ok(t, s.Admit(t.Context(), store.Admission{Team: "vision", Revoked: []string{r.Ref()}}, note(audit.ReleaseRevoked, r.Ref())))
	if got := must(s.Releases(t.Context()))(t); len(got) != 1 || !got[0].Revoked {
		t.Errorf("got %+v, want it revoked", got)
	}
	r.Counter, r.Admitted, r.By = r.Counter+1, r.Admitted.Add(time.Hour), "again"
	ok(t, s.Admit(t.Context(), store.Admission{Team: "vision", Admitted: []store.Release{r}}, note(audit.ReleaseAdmitted, r.Ref())))
	if diff := cmp.Diff([]store.Release{r}, must(s.Releases(t.Context()))(t)); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
	wantKind(t, s.Admit(t.Context(), store.Admission{Revoked: []string{"none@1"}}), fault.NotFound)
}
