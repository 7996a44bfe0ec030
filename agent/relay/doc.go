// Package relay brings a member's rows to the coordinator, and those of its cell
// when the cell elected it.
//
// Every member addresses its rows to the cell's two relays. The primary hands
// them over in batches and acks what the coordinator took; the standby has them
// too, and steps in when the primary acked none of the standby's own rows for
// three periods. A member that nobody acked for three periods, or whose cell has
// no relay, goes to the coordinator by itself. An ack therefore always means that
// the coordinator has the row, and a row that comes by two ways, or by two
// members that both take themselves for the primary, is merely sent twice: rows
// are cumulative.
//
// [Decide] is the pure part: who carries what. [Relay] does it. Packs come down
// by whoever has something to carry ([Relay.Duty]): it holds the long poll and
// gives what it verified to the cell (gossip.Pool.Announce).
package relay
