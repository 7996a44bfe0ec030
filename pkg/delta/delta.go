// Package delta is the lossless, tensor-aware codec of one frame of a file:
// plain bytes alone, or plain bytes against a base of the same length that
// they resemble. It keeps nothing between frames and knows no files; whoever
// calls it aligns the base and hashes what comes out.
//
// Between fine-tuned versions of a model nearly every weight changes a little.
// No byte string of any length repeats, so tools that look for repetitions
// find nothing. But the change is small against the weight, and how small is
// known beforehand: an optimiser's step has about one size for all weights of
// a row, so the weight's own exponent tells how many units in the last place
// the step makes. Blocks of 1 MiB are therefore coded by what the base tells:
//
//		base  ── exponent ──────────────┐
//		groups before ── how active,    ├─▶ table ─▶ range coder ─▶ class of the difference
//		                 and which way ─┘            bit writer ──▶ its low bits
//
//	  - DELTA takes elements of 1, 2, 4 or 8 bytes as integers and codes the class
//	    of their difference to the base's; nothing is rounded, so NaNs and
//	    denormals are as good as any. Groups of 16 that did not change cost a
//	    flag. Weights that are fed by inputs of one sign move together: a running
//	    balance predicts the sign of the next difference.
//	  - STRIDE does the same for the quantised blocks of GGUF files, scales first:
//	    what a scale did decides what its quants do.
//	  - SELF needs no base: the exponents' plane is coded, the others are noise.
//	  - COPY and RAW cost a byte.
//
// The encoder finds widths, phases and layouts on a sample of the bytes; no file
// format is parsed. It tries what the sample leaves open, so with a base a block
// is at most as long as without, and never longer than its bytes and one more.
//
// Symbols are coded by four interleaved rANS coders, of as many tables as pay
// for their place in the block's header (see docs/formats/delta.md). The format
// is ours and frozen: testdata has frames of every mode.
package delta
