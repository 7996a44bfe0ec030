// Package oms signs and verifies a model, a folder of files or one file, with
// OpenSSF Model Signing (OMS) v1.0: the methods key and certificate, the
// serializations files and shards. It needs the standard library only and may be
// imported by anyone.
//
//	m, err := oms.Hash(ctx, "model/", oms.Options{Method: oms.Shards, ShardSize: 4 << 20})
//	bundle, err := oms.Sign(m, key)
//
//	b, err := oms.Parse(bundle)
//	m, err := b.VerifyKey(publisherKey)                        // who signed it
//	err = m.Check(ctx, "model/", oms.CheckOptions{})           // is this folder exactly what was signed
//
// It is stricter than the reference implementation where that one is lenient:
// JSON that two readers may read differently is refused; every byte of every
// file must be covered; symbolic links and special files are refused; a folder
// with empty files cannot be signed in shards, where the format leaves them
// out; certificate chains are checked at the time the caller gives, not at the
// certificate's own beginning; and everything read has a size cap.
//
// The root digest ([Manifest.Root]) is the identity of the signed content.
// Errors are [*Error] with a [Class] that says which check refused. Bundles of
// the reference implementation's first releases are read by [ParseHistorical]
// alone.
//
// Hashing runs in parallel in memory that does not grow with the model. All
// functions and a parsed [Bundle] that is no longer changed by [Bundle.Accept]
// are safe for concurrent use.
//
// A bundle by the method sigstore is parsed here ([Bundle.Keyless]) and verified
// by package keyless. What is refused and why is in docs/formats/oms.md, with
// test vectors for readers in any language; the smallest program that verifies
// is infra/bench/oms/cmd/verify.
package oms
