// Package cas keeps a member's verified files, named by their content, and is
// the one place that knows how a file becomes durable.
//
//	DIR/files/AA/DIGEST        one verified file, read-only, never changed again
//	DIR/files/AA/DIGEST.frames the digests of its frames: where a later release may copy from
//	DIR/releases/KEY/...       one release whole: a folder of hard links into files/
//	DIR/staging/KEY/           an install under way: partial files and its journal
//	DIR/pins/NAME              the key of the release that NAME protects from collection
//
// A release's key is the digest of its signed bundle (fleet.Variant.Bundle): the
// OMS root covers contents but not names, so two releases may share it.
//
// What is visible under files/ and releases/ is whole, verified and durable:
// names appear there by one rename after everything was synced. A process that
// has a file open or mapped keeps it, whatever is switched or collected. The
// bytes are docs/formats/disk.md.
//
// [WriteFile] and [Publish] are the durable writes of all of modelfleet, and
// [Lock] is how a folder has one process at a time. Hard links are required, so a
// FAT file system is refused.
package cas
