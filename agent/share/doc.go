// Package share lets the members of a site give each other frames, so that a
// release crosses the site's link to the bucket about once, not once a member.
//
//	member ──"frame f of release r"──▶ owner of f ──once──▶ bucket
//	       ◀──────── the frame ───────    │  keeps it: in its own install, or in a bounded cache
//
// There is no tracker and nobody tells what it has. The owner of a frame is the
// member with the highest rendezvous hash of (frame, member) among the sharing,
// unmetered, proven members that are alive in the cell; everybody computes it.
// Who wants a frame asks owners one, two and three and then the bucket. An owner
// that lacks it fetches it for all who ask, once, also when it does not install
// that release itself. One that sees a better owner than itself passes the
// question on, once. Members that see the cell differently for a while cost
// duplicates, never a wrong byte.
//
// A site is the member's cell: of a large site with several cells, each shares
// among its own at most 64.
//
// [Site] is both ends: it implements delivery.Peers for this member's installs,
// and serves neighbours by mutual TLS with the members' device certificates.
// Nothing is believed: a frame is verified before it is passed on, by whoever
// takes it, against what the publisher signed; one that is wrong has its giver
// left out until the agent starts again. And nothing is fetched for a neighbour
// but frames of releases that this member's own trust pack backs.
// docs/formats/share.md has the exchange.
package share
