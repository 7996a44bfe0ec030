package share

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func drawMembers(t *rapid.T) []fleet.MemberID {
	return rapid.SliceOfNDistinct(rapid.Map(rapid.StringMatching(`[a-z0-9][a-z0-9.-]{0,20}[a-z0-9]`), func(s string) fleet.MemberID {
		return fleet.MemberID(s)
	}), 1, 64, rapid.ID).Draw(t, "members")
}

func drawFrame(t *rapid.T) fleet.Digest {
	return fleet.DigestOf(rapid.SliceOf(rapid.Byte()).Draw(t, "frame"))
}

// In whatever order a member knows the others, it finds the same owners.
func TestOwnersDoNotDependOnTheOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members, frame := drawMembers(t), drawFrame(t)
		shuffled := rapid.Permutation(members).Draw(t, "shuffled")
		if a, b := top(frame, members, owners), top(frame, shuffled, owners); !slices.Equal(a, b) {
			t.Fatalf("%v, and in another order %v", a, b)
		}
	})
}

// A member that goes takes with it only what it owned: each line closes up.
func TestAMemberThatGoesMovesOnlyItsFrames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members, frame := drawMembers(t), drawFrame(t)
		gone := rapid.SampledFrom(members).Draw(t, "gone")
		left := slices.DeleteFunc(slices.Clone(members), func(m fleet.MemberID) bool { return m == gone })
		want := slices.DeleteFunc(top(frame, members, len(members)), func(m fleet.MemberID) bool { return m == gone })
		if got := top(frame, left, len(left)); !slices.Equal(got, want) {
			t.Fatalf("without %s the line is %v, want %v", gone, got, want)
		}
	})
}

func TestALineNamesEachMemberOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members, frame := drawMembers(t), drawFrame(t)
		line := top(frame, members, owners)
		if len(line) != min(owners, len(members)) {
			t.Fatalf("%d in line of %d members", len(line), len(members))
		}
		all := top(frame, members, len(members))
		if !slices.Equal(all[:len(line)], line) {
			t.Fatalf("the first %d of %v are not %v", len(line), all, line)
		}
		slices.Sort(all)
		if got := slices.Compact(all); len(got) != len(members) {
			t.Fatalf("%d of %d members are in line", len(got), len(members))
		}
	})
}

// Frames spread evenly: of 3000 no member of 30 has twice its share or half of it.
func TestFramesSpread(t *testing.T) {
	t.Parallel()
	var members []fleet.MemberID
	for i := range 30 {
		members = append(members, fleet.MemberID(fmt.Sprintf("camera-%d", i)))
	}
	has := map[fleet.MemberID]int{}
	for i := range 3000 {
		has[top(fleet.DigestOf(fmt.Append(nil, i)), members, 1)[0]]++
	}
	for _, m := range members {
		if has[m] < 50 || has[m] > 200 {
			t.Errorf("%s owns %d of 3000 frames", m, has[m])
		}
	}
}

// The vector of docs/formats/share.md.
func TestWeightVector(t *testing.T) {
	t.Parallel()
	w := weight(fleet.DigestOf([]byte("frame")), "d01")
	const want = "3b3d61dd60ac746bc8f68c4d49a41c39000b7620eeabf1baa52fa83e9152cbb7"
	if got := fleet.Digest(w).String(); got != want {
		t.Errorf("weight is %s, want %s", got, want)
	}
}

func FuzzQuestion(f *testing.F) {
	d := fleet.DigestOf([]byte("x")).String()
	f.Add(d, d, "0", "4194304", "0")
	f.Add(d, d, "17", "1", "1")
	f.Add(d, d, "-1", "0", "2")
	f.Add(d, d, "007", "+5", "")
	f.Fuzz(func(t *testing.T, release, file, frame, length, hop string) {
		q, err := parseQuestion(release, file, frame, length, hop)
		if err != nil {
			return
		}
		if want := "/v1/frames/" + release + "/" + file + "/" + frame + "/" + length; q.path() != want {
			t.Errorf("%s was read as %s", want, q.path())
		}
		if q.frame < 0 || q.length <= 0 || q.hop < 0 || q.hop > 1 {
			t.Errorf("read %+v", q)
		}
	})
}
