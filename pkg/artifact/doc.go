// Package artifact is a release's files as they lie in the bucket.
//
//	models/TEAM/MODEL/VERSION/VARIANT.oms   the signed bundle: the only manifest that is believed
//	files/DIGEST/raw            one file's content, plain
//	files/DIGEST/raw.idx        its size and frames: a hint; written last, so its presence says "all there"
//	files/DIGEST/full           the same content as packed frames, when that is worth it
//	files/DIGEST/full.idx
//	files/DIGEST/delta/BASE     the same content as the difference to another file, when that is worth it
//	files/DIGEST/delta/BASE.idx
//
// A frame is 4 MiB of a file's plain bytes and, when the folder was signed in
// shards, exactly one shard: the unit of verification, resume and exchange.
// Whatever an index says is used to find bytes, never to believe them: a frame
// is kept only if it hashes to what was signed.
//
// [FilesOf] turns a manifest into files and frames. [Upload] and [UploadDelta] put
// them into a bucket. [ParseIndex], [Index.BaseSpans] and [Unpacker] are what a
// member reads them back with, [OpenContent] what a publisher does. The byte
// format is docs/formats/release.md.
package artifact
