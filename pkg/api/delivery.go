package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Sources are verified bytes by where they came from.
type Sources struct {
	Copy   int64 `json:"copy,omitempty"`   // were on the disk: in an earlier release, or left by an interrupted fetch
	Delta  int64 `json:"delta,omitempty"`  // made from an earlier release and the difference to it
	Peer   int64 `json:"peer,omitempty"`   // from neighbours
	Bucket int64 `json:"bucket,omitempty"` // from the bucket, compressed or plain
}

// Source is one part of [Sources].
type Source struct {
	Name  string // "copy", "delta", "peer" or "bucket"
	Words string // "from neighbours"
	Bytes int64
}

// Parts are the sources in the order people are shown them, those without a byte
// too.
func (s Sources) Parts() []Source {
	return []Source{
		{"copy", "here already", s.Copy}, {"delta", "by deltas", s.Delta}, {"peer", "from neighbours", s.Peer}, {"bucket", "from the bucket", s.Bucket},
	}
}

// Plus is both together.
func (s Sources) Plus(o Sources) Sources {
	return Sources{s.Copy + o.Copy, s.Delta + o.Delta, s.Peer + o.Peer, s.Bucket + o.Bucket}
}

// Minus is what came since o.
func (s Sources) Minus(o Sources) Sources {
	return Sources{s.Copy - o.Copy, s.Delta - o.Delta, s.Peer - o.Peer, s.Bucket - o.Bucket}
}

// Text names the sources that delivered something, with numbers of bytes as size
// writes them: "4.0 MiB here already, 12.0 MiB from the bucket".
func (s Sources) Text(size func(int64) string) string {
	var parts []string
	for _, p := range s.Parts() {
		if p.Bytes > 0 {
			parts = append(parts, size(p.Bytes)+" "+p.Words)
		}
	}
	return strings.Join(parts, ", ")
}

// DeliveryInfo is what a member fetched since its agent started, and what went
// wrong with it.
type DeliveryInfo struct {
	From    Sources        `json:"from"`
	Wire    int64          `json:"wire,omitempty"`    // bytes taken from the bucket, wrong ones and repeats too
	Damaged int            `json:"damaged,omitempty"` // files that were found damaged on its disk, and fetched again
	Liars   int            `json:"liars,omitempty"`   // neighbours it left out since they delivered what was not signed
	Liar    fleet.MemberID `json:"liar,omitempty"`    // the last of them, when it is known
}

// FetchingInfo sums up the members of a rollout that download its release now.
type FetchingInfo struct {
	Members int            `json:"members"`
	Done    int64          `json:"done"`
	Total   int64          `json:"total"`
	From    Sources        `json:"from"`
	Rate    int64          `json:"rate,omitempty"` // bytes a second that arrive, all together; 0: not known
	Left    fleet.Duration `json:"left,omitempty"` // of the one that needs longest; 0: not known
}

// StuckInfo counts the members of a rollout that cannot bring its release in for
// one reason that is not the release's.
type StuckInfo struct {
	Failure fleet.FailureClass `json:"failure"` // transport or member
	Code    string             `json:"code"`
	Members int                `json:"members"`
	Since   time.Time          `json:"since,omitzero"` // of the one that fails longest
}

// Text is the sentence about it, as of now.
func (s StuckInfo) Text(now time.Time) string {
	who, they := fmt.Sprintf("%d members", s.Members), "they try"
	if s.Members == 1 {
		who, they = "1 member", "it tries"
	}
	return fmt.Sprintf("%s %s: %s%s; %s again, and it does not count against the release", who, cannot(s.Code), s.Code, since(s.Since, now), they)
}

// Stuck reports whether something that is not the release's fault keeps the
// member from its target. It tries again by itself.
func (s ModelStatus) Stuck() bool {
	if s.Failure != fleet.TransportFailure && s.Failure != fleet.MemberFailure {
		return false
	}
	return s.Phase == fleet.Offered || s.Phase == fleet.Downloading || s.Phase == fleet.Failed
}

// StuckText says what keeps a stuck member from its target, as of now: "cannot
// fetch: network, since 09:31:00Z (10m0s)"; otherwise it is empty.
func (s ModelStatus) StuckText(now time.Time) string {
	switch {
	case !s.Stuck():
		return ""
	case s.Phase == fleet.Downloading:
		return "fetches again after it could not: " + s.FailureCode + since(s.Failing, now)
	}
	return cannot(s.FailureCode) + ": " + s.FailureCode + since(s.Failing, now)
}

// cannot is what a failure that is not the release's keeps a member from.
func cannot(code string) string {
	switch code {
	case "self-test":
		return "cannot run the self-test"
	case "io", "gone", "internal":
		return "cannot bring it in"
	}
	return "cannot fetch"
}

func since(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(", since %s (%s)", t.UTC().Format("2006-01-02 15:04:05Z"), max(0, now.Sub(t)).Round(time.Second))
}
