// Package disk is a model of a file system that forgets what was not synced. It
// replays the system calls of a program (infra/crash/trace) and gives, after each
// of them, the images that a power cut at that moment may leave behind:
//
//   - data that was not synced may be there, missing, or torn block by block: old,
//     new, zero or garbage;
//   - names that were not synced, each link, rename or removal for itself, may be there
//     or not, in any combination; a rename happens wholly or not at all, and is
//     durable when the folder it led to is synced;
//   - the sync of a file says nothing of its name, the sync of a folder nothing of
//     what is in its files;
//   - a sync covers what had ended when it began, not what ran beside it, and what
//     began before it ended may be there without what it covers.
//
// That is less than ext4, xfs and btrfs promise, so what survives here survives
// there.
//
//	d, err := disk.Load(before, calls)
//	for d.Next() {
//		for image := range d.Crashes(8) { image.Write(dir); ... }
//	}
package disk
