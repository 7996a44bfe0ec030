// Package standby keeps a device's way to the trust packs for when its
// coordinator is away: a presigned URL of its group's pack in the bucket, where
// the heartbeat goes on publishing. It is for devices that have no source of
// their own; package agent asks the coordinator first, and this when that is away.
//
//	coordinator ─▶ URL, good for up to a week ─▶ pack-url.json ─▶ bucket ─▶ pack
//
// What it promises:
//
//   - The URL is asked for only when the coordinator was just heard, at the start
//     and then at half of its life, and lies on the disk, so that a restart keeps it.
//   - It is a secret for one object: the file is of mode 0600, and neither logs nor
//     errors nor the status hold more of it than its host.
//   - Whether it is still good the bucket says, not the device's clock. One that is
//     refused is told of once, tried on at the caller's pace, and asked for anew as
//     soon as the coordinator is heard.
//   - Nothing is believed of what comes by it: a pack authenticates itself.
package standby
