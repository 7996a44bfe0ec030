// Package delta is the lossless, tensor-aware codec of one frame of a file:
// plain bytes alone, or plain bytes against a base of the same length that
// they resemble. It keeps no state between frames and knows no files.
package delta

// MaxFrame is the longest frame the codec takes, in plain bytes.
const MaxFrame = 64 << 20
